"""Paged key/value cache: one pool of pages for a decoder, and the pages each sequence holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omni.config import DecoderConfig
from omni.errors import CapacityError
from omni.kernels import PageTable

PAGE_SIZE = 64


@dataclass
class CachedSequence:
    """What one sequence holds: its pages in order and the rows written into them."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagePool:
    """Keys and values of every layer of one decoder, in pages of `page_size` rows.

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
        self._free: list[int] = []
        if device.type == "cuda":
            self._grow(max_pages)

    @property
    def num_free(self) -> int:
        """Pages that can still be handed out."""
        return len(self._free) + self.max_pages - self.keys.shape[1]

    def reserve(self, sequence: CachedSequence, num_rows: int) -> None:
        """Give a sequence the pages for `num_rows` more rows, or raise CapacityError and give none."""
        need = -(-(sequence.length + num_rows) // self.page_size) - len(sequence.pages)
        if need > self.num_free:
            raise CapacityError(
                f"the cache has {self.num_free * self.page_size} rows free and {need * self.page_size} are needed; "
                "wait for other requests to end, shorten the prompt, or load with a larger cache"
            )
        if need > len(self._free):
            self._grow(need - len(self._free))
        sequence.pages += [self._free.pop() for _ in range(need)]

    def table(self, sequences: Sequence[CachedSequence], new: Sequence[int]) -> PageTable:
        """Where the next `new[b]` rows of each sequence go; reserves their pages first."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            self.reserve(sequence, num_rows)
        past = [s.length for s in sequences]
        return PageTable.of(new, past, [s.pages for s in sequences], self.page_size, self.keys.device)

    def commit(self, sequences: Sequence[CachedSequence], new: Sequence[int]) -> None:
        """Count rows as held once a step has written them."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            sequence.length += num_rows

    def release(self, sequence: CachedSequence) -> None:
        """Take all pages of a sequence back; a sequence that holds none may be given too."""
        self._free += reversed(sequence.pages)
        sequence.pages, sequence.length = [], 0

    def _grow(self, at_least: int) -> None:
        have = self.keys.shape[1]
        more = min(max(at_least, have), self.max_pages - have)
        self.keys, self.values = (self._longer(x, more) for x in (self.keys, self.values))
        self._free = [*range(have + more - 1, have - 1, -1), *self._free]

    @staticmethod
    def _longer(x: Tensor, more: int) -> Tensor:
        new = x.new_empty(x.shape[0], x.shape[1] + more, *x.shape[2:])
        new[:, : x.shape[1]] = x
        return new
