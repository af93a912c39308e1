"""The KV cache of one decoder: where rows lie is the block manager's, what they hold the store's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni.engine.block_manager import BLOCK_SIZE, BlockManager, CachedSequence
from omni.kernels import BlockTable
from omni.models.config import DecoderConfig
from omni.models.kv_store import KVStore


@dataclass(frozen=True)
class SavedSequence:
    """A sequence's rows in host memory.

    Attributes:
        rows: see `KVStore.save`; what lies past `length` means nothing.
    """

    rows: tuple[Tensor, Tensor]
    length: int


class KVCache:
    """Block manager and store of one decoder.

    On a CPU memory grows with the blocks in use; on a GPU all of it is taken at once, so that addresses never change.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        max_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        block_size: int = BLOCK_SIZE,
    ) -> None:
        self.blocks = BlockManager(max_blocks, block_size)
        self.store = KVStore(config, block_size=block_size, dtype=dtype, device=device)
        if device.type == "cuda":
            self.take_all()

    def take_all(self) -> None:
        """Take all memory that there may be."""
        self.blocks.grow(self.blocks.max_blocks)
        self.store.grow(self.blocks.num_blocks)

    def reserve(self, sequence: CachedSequence, num_rows: int) -> None:
        """Give a sequence places for so many more rows, or raise CapacityError and give none."""
        copied = self.blocks.allocate(sequence, num_rows)
        self.store.grow(self.blocks.num_blocks)
        if copied:
            self.store.copy(*copied)

    def table(self, sequences: Sequence[CachedSequence], new: Sequence[int]) -> BlockTable:
        """Where the next `new[b]` rows of each sequence go; reserves their places first."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            self.reserve(sequence, num_rows)
        past, blocks = [s.length for s in sequences], [s.blocks for s in sequences]
        return BlockTable.of(new, past, blocks, self.blocks.block_size, self.store.device)

    @staticmethod
    def commit(sequences: Sequence[CachedSequence], new: Sequence[int]) -> None:
        """Count rows as held once a step has written them."""
        for sequence, num_rows in zip(sequences, new, strict=True):
            sequence.length += num_rows

    def save(self, sequence: CachedSequence) -> SavedSequence:
        """Copy a sequence's rows to host memory and free its blocks."""
        saved = self.store.save(sequence.blocks[: self.blocks.count(sequence.length)])
        length = sequence.length
        self.blocks.free(sequence)
        return SavedSequence(saved, length)

    def restore(self, saved: SavedSequence, sequence: CachedSequence) -> None:
        """Write saved rows into blocks of an empty sequence, or raise CapacityError and change nothing."""
        assert not sequence.blocks and not sequence.length, "only an empty sequence is restored"
        self.reserve(sequence, saved.length)
        self.store.restore(saved.rows, sequence.blocks)
        sequence.length = saved.length
