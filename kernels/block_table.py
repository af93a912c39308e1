"""Where sequences lie in the blocks of a paged key/value cache, as kernels see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omni.kernels.segments import Segments


@dataclass(frozen=True)
class BlockTable:
    """Where B sequences lie in a pool of blocks, for one step that adds rows to each of them.

    Attributes:
        segments: the new rows, packed.
        kv_lens: rows each sequence holds once the new ones are written.
        kv_len: the same, int32 `[B]` on the device.
        blocks: int32 `[B, M]`, block numbers in order; entries past the last used block are 0.
        slots: int64 `[N]`, block * P + offset of every new row.
        firsts: of each sequence whose blocks in use lie one behind the other, the first; -1 for the others.
    """

    segments: Segments
    kv_lens: tuple[int, ...]
    kv_len: Tensor
    blocks: Tensor
    slots: Tensor
    firsts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        new: Sequence[int],
        past: Sequence[int],
        blocks: Sequence[Sequence[int]],
        block_size: int,
        device: torch.device,
    ) -> BlockTable:
        """Args: rows to add to each sequence, rows each holds already, its blocks (enough for both), rows in a block."""
        kv_lens = tuple(n + p for n, p in zip(new, past, strict=True))
        width = max(len(row) for row in blocks)
        table = torch.tensor([list(row) + [0] * (width - len(row)) for row in blocks], dtype=torch.int32)  # [B, M]
        slots = []
        for row, first, last in zip(table, past, kv_lens, strict=True):
            at = torch.arange(first, last)
            slots.append(row[at // block_size].long() * block_size + at % block_size)
        return cls(
            Segments.of(new, device),
            kv_lens,
            torch.tensor(kv_lens, dtype=torch.int32, device=device),
            table.to(device),
            torch.cat(slots).to(device),
            tuple(_first(row[: -(-n // block_size)]) for row, n in zip(blocks, kv_lens, strict=True)),
        )


def _first(blocks: Sequence[int]) -> int:
    return blocks[0] if all(a + 1 == b for a, b in pairwise(blocks)) else -1
