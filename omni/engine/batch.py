"""A decoder with its cache, advanced by new rows of several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.cache import PAGE_SIZE, CachedSequence, PagePool
from omni.decoder import Decoder, Tap

CHUNK = 2048
"""Rows of one sequence that pass through the decoder at once; bounds the memory of a long prompt."""


class Lane:
    """A decoder with a cache of its own, in the dtype and on the device of its weights.

    Args:
        cache_tokens: rows that the cache may hold in all.

    Attributes:
        pool: the decoder's keys and values.
    """

    def __init__(self, decoder: Decoder, cache_tokens: int) -> None:
        self.decoder = decoder
        weight = decoder.norm.weight
        self.device = weight.device
        pages = -(-cache_tokens // PAGE_SIZE)
        self.pool = PagePool(decoder.config, max_pages=pages, dtype=weight.dtype, device=weight.device)

    @property
    def max_positions(self) -> int:
        """Rows of the longest sequence that the decoder was made for."""
        return self.decoder.config.max_positions

    def advance(
        self,
        sequences: Sequence[CachedSequence],
        rows: Sequence[Tensor],
        positions: Sequence[Tensor],
        tap: Tap | None = None,
    ) -> list[Tensor]:
        """Append rows `[n, C]` at positions `[3, n]` to each sequence; their hidden rows `[n, C]`.

        tap: as for `Decoder`.

        Raises:
            CapacityError: the cache is full; sequences keep what they held.
        """
        out: list[list[Tensor]] = [[] for _ in sequences]
        longest = max(len(r) for r in rows)
        for first in range(0, longest, CHUNK):
            live = [i for i, r in enumerate(rows) if len(r) > first]
            parts = [rows[i][first : first + CHUNK] for i in live]
            lens = [len(p) for p in parts]
            at = torch.cat([positions[i][:, first : first + CHUNK] for i in live], 1).to(parts[0].device)
            held = [sequences[i] for i in live]
            table = self.pool.table(held, lens)
            hidden = self.decoder(torch.cat(parts), at, self.pool, table, tap)
            self.pool.commit(held, lens)
            for i, piece in zip(live, hidden.split(lens), strict=True):
                out[i].append(piece)
        return [torch.cat(pieces) for pieces in out]
