"""Paged key/value cache: one pool of pages for a decoder, and the pages each sequence holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omni.errors import CapacityError
from omni.kernels import BlockTable
from omni.models.config import DecoderConfig

PAGE_SIZE = 64


@dataclass
class CachedSequence:
    """What one sequence holds: its pages in order and the rows written into them."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class SavedSequence:
    """A sequence's rows in host memory.

    Attributes:
        keys, values: `[L, num_pages, P, K, D]`; what lies past `length` means nothing.
    """

    keys: Tensor
    values: Tensor
    length: int


class PagePool:
    """Keys and values of every layer of one decoder, in pages of `page_size` rows.

    Several sequences may hold one page. A page is in use (some sequence holds it), cached (none does, but it is published
    under a key) or free; cached pages are handed out again when no other is left, the least recently used first, and the
    end of a sequence before its beginning. Only a page that one sequence holds alone and that is not published is ever
    written. So whoever has a table writes and commits its rows before the pool is asked for anything else.

    On a CPU memory grows by doubling up to `max_pages`, and page numbers stay valid when it does; on a GPU all of it is
    taken at once, so that addresses never change.

    Attributes:
        keys, values: `[L, num_pages, P, K, D]`.
    """

    def __init__(
        self, config: DecoderConfig, *, max_pages: int, dtype: torch.dtype, device: torch.device, page_size: int = PAGE_SIZE
    ) -> None:
        self.page_size = page_size
        self.max_pages = max_pages
        shape = (config.num_layers, 0, page_size, config.num_kv_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self._num_holders: list[int] = []  # of each page
        self._free: dict[int, None] = {}  # the next to be handed out is last
        self._cached: OrderedDict[int, None] = OrderedDict()  # the next to be handed out is first
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        if device.type == "cuda":
            self._grow(max_pages)

    @property
    def num_free(self) -> int:
        """Pages that can still be handed out."""
        return self.max_pages - self.num_pages_used

    @property
    def num_pages_used(self) -> int:
        """Pages that at least one sequence holds."""
        return self.keys.shape[1] - len(self._free) - len(self._cached)

    @property
    def num_pages_cached(self) -> int:
        """Published pages that no sequence holds."""
        return len(self._cached)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row's keys and values in all layers."""
        num_layers, _, _, num_heads, head_dim = self.keys.shape
        return 2 * num_layers * num_heads * head_dim * self.keys.element_size()

    def reserve(self, sequence: CachedSequence, num_rows: int) -> None:
        """Give a sequence the pages for `num_rows` more rows, or raise CapacityError and give none.

        A partly filled last page that is shared or published is replaced by a copy, which may need a page too.
        """
        last, filled = divmod(sequence.length, self.page_size)
        need = max(0, self._pages_for(sequence.length + num_rows) - len(sequence.pages))
        copy = filled > 0 and not self._writable(sequence.pages[last])
        if copy and need == self.num_free and self._num_holders[sequence.pages[last]] == 1:
            # no page is left for the copy: unpublish, so that a sequence alone never needs more pages than its rows fill
            self._unpublish(sequence.pages[last])
            copy = False
        need += copy
        if not need:
            return
        if need > self.num_free:
            raise CapacityError(
                f"the cache has {self.num_free * self.page_size} rows free and {need * self.page_size} are needed; "
                "wait for other requests to end, shorten the prompt, or load with a larger cache"
            )
        fresh = self._take(need, sequence.pages[-1] if sequence.pages else None)
        if copy:
            old, new = sequence.pages[last], fresh.pop()
            for x in (self.keys, self.values):
                x[:, new] = x[:, old]
            sequence.pages[last] = new
            self._give_up([old])
        sequence.pages += fresh

    def table(
        self, sequences: Sequence[CachedSequence], new: Sequence[int], device: torch.device | None = None
    ) -> BlockTable:
        """Where the next `new[b]` rows of each sequence go; reserves their pages first. On `device`, or the pool's."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            self.reserve(sequence, num_rows)
        past = [s.length for s in sequences]
        return BlockTable.of(new, past, [s.pages for s in sequences], self.page_size, device or self.keys.device)

    def commit(self, sequences: Sequence[CachedSequence], new: Sequence[int]) -> None:
        """Count rows as held once a step has written them."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            sequence.length += num_rows

    def release(self, sequence: CachedSequence) -> None:
        """Give up all pages of a sequence; a sequence that holds none may be given too."""
        self.cut(sequence, 0)

    def cut(self, sequence: CachedSequence, length: int) -> None:
        """Forget a sequence's rows from `length` on, and give up the pages that the others do not fill."""
        assert 0 <= length <= sequence.length, "a cut makes no rows"
        keep = self._pages_for(length)
        self._give_up(sequence.pages[keep:])
        sequence.pages, sequence.length = sequence.pages[:keep], length

    def fork(self, sequence: CachedSequence) -> CachedSequence:
        """A second sequence with the same rows in the same pages; pages reserved for rows to come are not shared."""
        pages = sequence.pages[: self._pages_for(sequence.length)]
        for page in pages:
            self._num_holders[page] += 1
        return CachedSequence(pages, sequence.length)

    def publish(self, sequence: CachedSequence, keys: Sequence[bytes]) -> None:
        """Let others adopt a sequence's full pages.

        Args:
            keys: digests, the i-th of everything from the start of the sequence to the end of page i. Those past the
                last full page are left out; a key that has a page keeps it, and a page that has a key too.
        """
        for page, key in zip(sequence.pages[: sequence.length // self.page_size], keys, strict=False):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key] = page
                self._key_of[page] = key

    def match(self, keys: Sequence[bytes]) -> int:
        """Leading keys that have a page; asking does not count as use."""
        return next((i for i, key in enumerate(keys) if key not in self._page_of), len(keys))

    def adopt(self, sequence: CachedSequence, keys: Sequence[bytes], most: int | None = None) -> int:
        """Begin an empty sequence with the published pages of the leading keys, `most` pages at most; rows it then has."""
        assert not sequence.pages and not sequence.length, "only an empty sequence adopts"
        assert most is None or most >= 0
        keys = keys[:most]
        for key in keys[: self.match(keys)]:
            page = self._page_of[key]
            self._cached.pop(page, None)
            self._num_holders[page] += 1
            sequence.pages.append(page)
        sequence.length = len(sequence.pages) * self.page_size
        return sequence.length

    def forget(self) -> None:
        """Publish nothing any more."""
        self._free |= dict.fromkeys(reversed(self._cached))
        self._cached.clear()
        self._page_of.clear()
        self._key_of.clear()

    def save(self, sequence: CachedSequence) -> SavedSequence:
        """Copy a sequence's rows to host memory and release its pages."""
        at = self._index(sequence.pages[: self._pages_for(sequence.length)])
        saved = SavedSequence(self._to_host(self.keys, at), self._to_host(self.values, at), sequence.length)
        self.release(sequence)
        return saved

    def restore(self, saved: SavedSequence, sequence: CachedSequence) -> None:
        """Write saved rows into pages of an empty sequence, or raise CapacityError and change nothing."""
        assert not sequence.pages and not sequence.length, "only an empty sequence is restored"
        self.reserve(sequence, saved.length)
        at = self._index(sequence.pages)
        for x, rows in ((self.keys, saved.keys), (self.values, saved.values)):
            for layer, host in zip(x, rows, strict=True):
                layer.index_copy_(0, at, host.to(x.device))
        sequence.length = saved.length

    def _pages_for(self, num_rows: int) -> int:
        return -(-num_rows // self.page_size)

    def _index(self, pages: list[int]) -> Tensor:
        return torch.tensor(pages, dtype=torch.int64, device=self.keys.device)

    def _writable(self, page: int) -> bool:
        return self._num_holders[page] == 1 and page not in self._key_of

    def _unpublish(self, page: int) -> None:
        del self._page_of[self._key_of.pop(page)]

    def _take(self, num_pages: int, last: int | None) -> list[int]:
        """Pages for one holder, of which there are enough; each behind the one before, from `last` on, where that is free.

        Rows that lie in one piece are read where they lie, which a plain kernel otherwise would have to gather.
        """
        if num_pages > len(self._free):
            self._grow(num_pages - len(self._free))
        while num_pages > len(self._free):
            page, _ = self._cached.popitem(last=False)
            self._unpublish(page)
            self._free[page] = None
        pages = []
        for _ in range(num_pages):
            if last is None or last + 1 not in self._free:
                last, _ = self._free.popitem()
            else:
                last += 1
                del self._free[last]
            self._num_holders[last] = 1
            pages.append(last)
        return pages

    def _give_up(self, pages: list[int]) -> None:
        for page in reversed(pages):
            self._num_holders[page] -= 1
            if self._num_holders[page]:
                continue
            if page in self._key_of:
                self._cached[page] = None
            else:
                self._free[page] = None

    def _grow(self, at_least: int) -> None:
        have = self.keys.shape[1]
        more = min(max(at_least, have), self.max_pages - have)
        if not more:
            return
        self.keys, self.values = (self._longer(x, more) for x in (self.keys, self.values))
        self._free = dict.fromkeys([*range(have + more - 1, have - 1, -1), *self._free])
        self._num_holders += [0] * more

    @staticmethod
    def _to_host(x: Tensor, at: Tensor) -> Tensor:
        host = torch.empty(len(x), len(at), *x.shape[2:], dtype=x.dtype, device="cpu")
        for layer, out in zip(x, host, strict=True):  # at once, the gathered pages might not fit on the device
            out.copy_(layer[at])
        return host

    @staticmethod
    def _longer(x: Tensor, more: int) -> Tensor:
        new = x.new_empty(x.shape[0], x.shape[1] + more, *x.shape[2:])
        new[:, : x.shape[1]] = x
        return new
