"""A decoder with its KV cache, advanced by new rows of several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.engine.block_manager import BLOCK_SIZE, CachedSequence
from omni.engine.graphs import MOST, RecordedRunner
from omni.engine.kv_cache import KVCache
from omni.engine.step import LocalRunner, Runner, Step
from omni.kernels.replay import replays_on
from omni.models.decoder import Decoder, Tap

CHUNK = 2048
"""Rows of one sequence that pass through the decoder at once; bounds the memory of a long prompt."""


class ModelRunner:
    """A decoder with a cache of its own, in the dtype and on the device of its weights.

    Args:
        cache_tokens: rows that the cache may hold in all.
        graphs: on a GPU, record decode steps and replay them.

    Attributes:
        run: runs decode steps.
    """

    def __init__(self, decoder: Decoder, cache_tokens: int, *, graphs: bool = True) -> None:
        self.decoder = decoder
        weight = decoder.norm.weight
        self.device = weight.device
        self.cache = KVCache(
            decoder.config, max_blocks=-(-cache_tokens // BLOCK_SIZE), dtype=weight.dtype, device=weight.device
        )
        replays = replays_on(self.device, MOST) if graphs else None
        store = self.cache.store
        self.run: Runner = RecordedRunner(decoder, store, replays) if replays else LocalRunner(decoder, store)

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
        if longest == 1 and tap is None:
            return self._decode(sequences, rows, positions)
        out: list[list[Tensor]] = [[] for _ in sequences]
        for first in range(0, longest, CHUNK):
            live = [i for i, r in enumerate(rows) if len(r) > first]
            part = slice(first, first + CHUNK)
            hidden = self._prefill(
                [sequences[i] for i in live], [rows[i][part] for i in live], [positions[i][:, part] for i in live], tap
            )
            for i, piece in zip(live, hidden, strict=True):
                out[i].append(piece)
        return [torch.cat(pieces) for pieces in out]

    def _prefill(
        self, sequences: Sequence[CachedSequence], rows: Sequence[Tensor], positions: Sequence[Tensor], tap: Tap | None
    ) -> Sequence[Tensor]:
        lens = [len(r) for r in rows]
        at = torch.cat(list(positions), 1).to(self.device)
        table = self.cache.table(sequences, lens)
        hidden = self.decoder(torch.cat(list(rows)), at, self.cache.store, table, tap)
        self.cache.commit(sequences, lens)
        return hidden.split(lens)

    def _decode(
        self, sequences: Sequence[CachedSequence], rows: Sequence[Tensor], positions: Sequence[Tensor]
    ) -> list[Tensor]:
        for sequence in sequences:
            self.cache.reserve(sequence, 1)
        at = torch.cat(list(positions), 1)
        hidden = self.run(Step.of(torch.cat(list(rows)), at, sequences, self.cache.blocks.block_size))
        self.cache.commit(sequences, [1] * len(sequences))
        return list(hidden.split(1))
