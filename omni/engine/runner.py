"""A decoder with its cache, advanced by new rows of several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.engine.graphs import MOST, Steps
from omni.kernels.replay import replays_on
from omni.models.decoder import Decoder, Tap
from omni.models.kv_store import PAGE_SIZE, CachedSequence, PagePool

HOST = torch.device("cpu")
CHUNK = 2048
"""Rows of one sequence that pass through the decoder at once; bounds the memory of a long prompt."""


class Lane:
    """A decoder with a cache of its own, in the dtype and on the device of its weights.

    Args:
        cache_tokens: rows that the cache may hold in all.
        graphs: on a GPU, record steps of one row a sequence and replay them.

    Attributes:
        pool: the decoder's keys and values.
        steps: the recorded ones; None where each is launched anew.
    """

    def __init__(self, decoder: Decoder, cache_tokens: int, *, graphs: bool = True) -> None:
        self.decoder = decoder
        weight = decoder.norm.weight
        self.device = weight.device
        pages = -(-cache_tokens // PAGE_SIZE)
        self.pool = PagePool(decoder.config, max_pages=pages, dtype=weight.dtype, device=weight.device)
        self.steps: Steps | None = None
        if graphs and (replays := replays_on(self.device, MOST)):
            self.steps = Steps(decoder, self.pool, replays)

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
        longest = max(len(r) for r in rows)
        if self.steps and longest == 1 and tap is None and self.steps.fit(sequences):
            return self._step(self.steps, sequences, rows, positions)
        out: list[list[Tensor]] = [[] for _ in sequences]
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

    def _step(
        self, steps: Steps, sequences: Sequence[CachedSequence], rows: Sequence[Tensor], positions: Sequence[Tensor]
    ) -> list[Tensor]:
        new = [1] * len(sequences)
        hidden = steps(torch.cat(list(rows)), torch.cat(list(positions), 1), self.pool.table(sequences, new, HOST))
        self.pool.commit(sequences, new)
        return list(hidden.split(1))
