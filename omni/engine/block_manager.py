"""Which blocks of a KV cache each sequence holds, and which of them others may find again. Integers only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from omni.errors import CapacityError

BLOCK_SIZE = 64
"""Rows in a block."""


@dataclass
class CachedSequence:
    """What one sequence holds: its block table and the rows written into those blocks."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


class BlockManager:
    """Hands out blocks of `block_size` rows, and keeps the prefix cache.

    Several sequences may hold one block. A block is in use (some sequence holds it), cached (none does, but it was inserted
    under a key) or free; cached blocks are handed out again when no other is left, the least recently used first, and the
    end of a sequence before its beginning. Only a block that one sequence holds alone and that is not in the prefix cache is
    ever written. So whoever has allocated rows writes them before anything else is asked for.

    Blocks come into being by doubling, up to `max_blocks`, and their numbers stay valid.

    Attributes:
        num_blocks: that have come into being.
    """

    def __init__(self, max_blocks: int, block_size: int = BLOCK_SIZE) -> None:
        self.max_blocks, self.block_size, self.num_blocks = max_blocks, block_size, 0
        self._num_holders: list[int] = []  # of each block
        self._free: dict[int, None] = {}  # the next to be handed out is last
        self._cached: OrderedDict[int, None] = OrderedDict()  # the next to be handed out is first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def max_rows(self) -> int:
        """Rows that a sequence alone may have."""
        return self.max_blocks * self.block_size

    @property
    def num_free(self) -> int:
        """Blocks that can still be handed out."""
        return self.max_blocks - self.num_used

    @property
    def num_used(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.num_blocks - len(self._free) - len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks of the prefix cache that no sequence holds."""
        return len(self._cached)

    def count(self, num_rows: int) -> int:
        """Blocks that so many rows fill or begin."""
        return -(-num_rows // self.block_size)

    # ---- what sequences hold

    def allocate(self, sequence: CachedSequence, num_rows: int) -> tuple[int, int] | None:
        """Give a sequence the blocks for `num_rows` more rows, or raise CapacityError and give none.

        A partly filled last block that is shared or in the prefix cache is replaced, which may need a block too.

        Returns:
            The block replaced and the one that stands in, to which its rows are still to be copied; None where none was.
        """
        need = max(0, self.count(sequence.length + num_rows) - len(sequence.blocks))
        copy = self._must_copy(sequence, need)
        need += copy
        if not need:
            return None
        if need > self.num_free:
            raise CapacityError(
                f"the cache has {self.num_free * self.block_size} rows free and {need * self.block_size} are needed; "
                "wait for other requests to end, shorten the prompt, or load with a larger cache"
            )
        fresh = self._take(need, sequence.blocks[-1] if sequence.blocks else None)
        replaced = self._replace(sequence, fresh.pop()) if copy else None
        sequence.blocks += fresh
        return replaced

    def _must_copy(self, sequence: CachedSequence, need: int) -> bool:
        """Whether a partly filled last block must not be written; `need` blocks are needed for what comes behind it."""
        last, filled = divmod(sequence.length, self.block_size)
        if not filled or self._writable(sequence.blocks[last]):
            return False
        if need == self.num_free and self._num_holders[sequence.blocks[last]] == 1:
            # none is left for the copy: take it out of the prefix cache, so that a sequence alone never needs more blocks
            # than its rows fill
            self._remove(sequence.blocks[last])
            return False
        return True

    def _replace(self, sequence: CachedSequence, new: int) -> tuple[int, int]:
        last = sequence.length // self.block_size
        old, sequence.blocks[last] = sequence.blocks[last], new
        self._give_up([old])
        return old, new

    def free(self, sequence: CachedSequence) -> None:
        """Give up all blocks of a sequence; one that holds none may be given too."""
        self.cut(sequence, 0)

    def cut(self, sequence: CachedSequence, length: int) -> None:
        """Forget a sequence's rows from `length` on, and give up the blocks that the others do not fill."""
        assert 0 <= length <= sequence.length, "a cut makes no rows"
        keep = self.count(length)
        self._give_up(sequence.blocks[keep:])
        sequence.blocks, sequence.length = sequence.blocks[:keep], length

    def fork(self, sequence: CachedSequence) -> CachedSequence:
        """A second sequence with the same rows in the same blocks; blocks allocated for rows to come are not shared."""
        blocks = sequence.blocks[: self.count(sequence.length)]
        for block in blocks:
            self._num_holders[block] += 1
        return CachedSequence(blocks, sequence.length)

    # ---- the prefix cache

    def insert(self, sequence: CachedSequence, keys: Sequence[bytes]) -> None:
        """Let others find a sequence's full blocks.

        Args:
            keys: digests, the i-th of everything from the start of the sequence to the end of block i. Those past the
                last full block are left out; a key that has a block keeps it, and a block that has a key too.
        """
        for block, key in zip(sequence.blocks[: sequence.length // self.block_size], keys, strict=False):
            if key not in self._block_of and block not in self._key_of:
                self._block_of[key] = block
                self._key_of[block] = key

    def match(self, keys: Sequence[bytes]) -> int:
        """Leading keys that have a block; asking does not count as use."""
        return next((i for i, key in enumerate(keys) if key not in self._block_of), len(keys))

    def adopt(self, sequence: CachedSequence, keys: Sequence[bytes]) -> int:
        """Begin an empty sequence with the blocks of the leading keys; the rows that it then has."""
        assert not sequence.blocks and not sequence.length, "only an empty sequence adopts"
        for key in keys[: self.match(keys)]:
            block = self._block_of[key]
            self._cached.pop(block, None)
            self._num_holders[block] += 1
            sequence.blocks.append(block)
        sequence.length = len(sequence.blocks) * self.block_size
        return sequence.length

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._free |= dict.fromkeys(reversed(self._cached))
        self._cached.clear()
        self._block_of.clear()
        self._key_of.clear()

    # ---- blocks

    def grow(self, at_least: int) -> None:
        """Let so many more blocks come into being, or as many as may be."""
        have = self.num_blocks
        more = min(max(at_least, have), self.max_blocks - have)
        self._free = dict.fromkeys([*range(have + more - 1, have - 1, -1), *self._free])
        self._num_holders += [0] * more
        self.num_blocks += more

    def _writable(self, block: int) -> bool:
        return self._num_holders[block] == 1 and block not in self._key_of

    def _remove(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]

    def _take(self, num_blocks: int, last: int | None) -> list[int]:
        """Blocks for one holder, of which there are enough; each behind the one before, from `last` on, where that is free.

        Rows that lie in one piece are read where they lie, which a plain kernel otherwise would have to gather.
        """
        if num_blocks > len(self._free):
            self.grow(num_blocks - len(self._free))
        while num_blocks > len(self._free):
            block, _ = self._cached.popitem(last=False)
            self._remove(block)
            self._free[block] = None
        blocks = []
        for _ in range(num_blocks):
            if last is None or last + 1 not in self._free:
                last, _ = self._free.popitem()
            else:
                last += 1
                del self._free[last]
            self._num_holders[last] = 1
            blocks.append(last)
        return blocks

    def _give_up(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self._num_holders[block] -= 1
            if self._num_holders[block]:
                continue
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free[block] = None
