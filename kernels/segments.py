"""Where packed rows are cut into sequences, and which rows of a sequence see each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """A cut of N packed rows into B runs, known to the host (`lens`) and to the device (`cu_len`).

    Attributes:
        lens: rows of each run; every one at least 1.
        cu_len: int32 `[B + 1]`, offsets of the runs, `cu_len[-1] == N`.
    """

    lens: tuple[int, ...]
    cu_len: Tensor

    @classmethod
    def of(cls, lens: Iterable[int], device: torch.device | str = "cpu") -> Segments:
        lens = tuple(lens)
        assert all(n > 0 for n in lens), "a segment is never empty"
        cu_len = torch.zeros(len(lens) + 1, dtype=torch.int32)
        torch.cumsum(torch.tensor(lens, dtype=torch.int32), 0, out=cu_len[1:])
        return cls(lens, cu_len.to(device))

    @property
    def num_rows(self) -> int:
        return sum(self.lens)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(first row, length, count) of each run of neighbouring segments of equal length."""
        start = 0
        for length, group in groupby(self.lens):
            count = sum(1 for _ in group)
            yield start, length, count
            start += length * count


class BlockMask(NamedTuple):
    """Row i sees row j when block(i) - back <= block(j) <= block(i) + ahead, with block(i) = i // size in its segment."""

    size: int
    back: int
    ahead: int
