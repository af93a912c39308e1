"""A decode step, and who runs it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from omni.engine.block_manager import CachedSequence
from omni.kernels import BlockTable, Segments
from omni.models.decoder import Decoder
from omni.models.kv_store import KVStore

AXES = 3
FIELDS = AXES + 2
"""Of a sequence's numbers before its block table: its positions, the rows it then holds, and where its row goes."""


class Step(NamedTuple):
    """One more row of each of B sequences, and all that is needed to run them: what a decode graph is fed.

    Attributes:
        rows: `[B, C]`.
        numbers: int64 `[B, 5 + M]` in host memory: three positions, the rows that the sequence then holds, block * P +
            offset of its new row, and its block table, with zeros behind it.
    """

    rows: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, rows: Tensor, positions: Tensor, sequences: Sequence[CachedSequence], block_size: int) -> Step:
        """Of rows `[B, C]` at positions int64 `[3, B]` in host memory, for which places are reserved."""
        width = max(len(s.blocks) for s in sequences)
        each = zip(positions.T.tolist(), sequences, strict=True)
        return cls(rows, torch.tensor([[*at, *_numbers(s, block_size, width)] for at, s in each]))


def _numbers(sequence: CachedSequence, block_size: int, width: int) -> list[int]:
    at, offset = divmod(sequence.length, block_size)
    empty = [0] * (width - len(sequence.blocks))
    return [sequence.length + 1, sequence.blocks[at] * block_size + offset, *sequence.blocks, *empty]


class Runner(Protocol):
    def __call__(self, step: Step) -> Tensor:
        """Hidden rows `[B, C]`; the rows' keys and values are written."""


class LocalRunner:
    """Launches every kernel by itself."""

    def __init__(self, decoder: Decoder, store: KVStore) -> None:
        self._decoder, self._store = decoder, store

    def __call__(self, step: Step) -> Tensor:
        host, size = step.numbers.tolist(), self._store.keys.shape[2]
        kv_lens = [row[AXES] for row in host]
        firsts = [_first(row[FIELDS:][: -(-kv_len // size)]) for row, kv_len in zip(host, kv_lens, strict=True)]
        numbers = step.numbers.to(step.rows.device)
        return self._decoder(step.rows, numbers[:, :AXES].T, self._store, block_table(numbers, kv_lens, firsts))


def block_table(numbers: Tensor, kv_lens: Sequence[int], firsts: Sequence[int]) -> BlockTable:
    """A step's block table, from its numbers on the device and what the host knows of it."""
    cu_len = torch.arange(len(numbers) + 1, dtype=torch.int32, device=numbers.device)
    kv_len, blocks, slots = numbers[:, AXES].int(), numbers[:, FIELDS:].int(), numbers[:, AXES + 1].contiguous()
    return BlockTable(Segments((1,) * len(numbers), cu_len), tuple(kv_lens), kv_len, blocks, slots, tuple(firsts))


def _first(blocks: Sequence[int]) -> int:
    return blocks[0] if all(a + 1 == b for a, b in pairwise(blocks)) else -1
