"""The paged key/value cache as kernels see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omni.kernels.segments import Segments


@dataclass(frozen=True)
class PageTable:
    """Where B sequences lie in a pool of pages, for one step that adds rows to each of them.

    Attributes:
        segments: the new rows, packed.
        kv_lens: rows each sequence holds once the new ones are written.
        kv_len: the same, int32 `[B]` on the device.
        pages: int32 `[B, M]`, page numbers in order; entries past the last used page are 0.
        slots: int64 `[N]`, page * P + offset of every new row.
        firsts: of each sequence whose pages in use lie one behind the other, the first; -1 for the others.
    """

    segments: Segments
    kv_lens: tuple[int, ...]
    kv_len: Tensor
    pages: Tensor
    slots: Tensor
    firsts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        new: Sequence[int],
        past: Sequence[int],
        pages: Sequence[Sequence[int]],
        page_size: int,
        device: torch.device,
    ) -> PageTable:
        """Args: rows to add to each sequence, rows each holds already, its pages (enough for both), rows in a page."""
        kv_lens = tuple(n + p for n, p in zip(new, past, strict=True))
        width = max(len(row) for row in pages)
        table = torch.tensor([list(row) + [0] * (width - len(row)) for row in pages], dtype=torch.int32)  # [B, M]
        slots = []
        for row, first, last in zip(table, past, kv_lens, strict=True):
            at = torch.arange(first, last)
            slots.append(row[at // page_size].long() * page_size + at % page_size)
        return cls(
            Segments.of(new, device),
            kv_lens,
            torch.tensor(kv_lens, dtype=torch.int32, device=device),
            table.to(device),
            torch.cat(slots).to(device),
            tuple(_first(row[: -(-n // page_size)]) for row, n in zip(pages, kv_lens, strict=True)),
        )


def _first(pages: Sequence[int]) -> int:
    return pages[0] if all(a + 1 == b for a, b in pairwise(pages)) else -1
