"""Two programs timed by turns, and what the machine does at best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from torch import Tensor

from omni.kernels.linear import linear, pack
from omni.kernels.native import memory

Run = Callable[[], object]
SHORTEST = 0.02
"""Seconds that one reading lasts at least: shorter runs are repeated within it."""


@dataclass(frozen=True)
class Pairs:
    """Rounds of A, B, B, A.

    Attributes:
        a, b: seconds of one run, two readings a round; b is empty where there was nothing to compare with.
    """

    a: tuple[tuple[float, float], ...]
    b: tuple[tuple[float, float], ...] = ()

    @property
    def ratios(self) -> list[float]:
        """How many times A's time B took, for each round."""
        return [sum(b) / sum(a) for a, b in zip(self.a, self.b, strict=True)] if self.b else []

    @property
    def ratio(self) -> float:
        """Median of the rounds; NaN where there was nothing to compare with."""
        return median(self.ratios or [math.nan])

    @property
    def noise(self) -> float:
        """By how much two readings of the same program differ in the median, as a part of them."""
        return median(max(x, y) / min(x, y) - 1 for x, y in (*self.a, *self.b))

    @property
    def a_median(self) -> float:
        return median(x for pair in self.a for x in pair)

    @property
    def b_median(self) -> float:
        return median([x for pair in self.b for x in pair] or [math.nan])


@dataclass(frozen=True)
class Timer:
    """Times runs on a device.

    Attributes:
        budget: seconds after which no further round of a pair begins.
        least, most: rounds.
        clock: seconds; tests give their own.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    budget: float = 12.0
    least: int = 3
    most: int = 9
    clock: Callable[[], float] = time.perf_counter

    def pairs(self, a: Run, b: Run | None = None, *, took: tuple[float, float] | None = None) -> Pairs:
        """Rounds of A, B, B, A (of A, A without B), after a run of each to warm up; none where it is told what one took."""
        calls = self._calls(a, took[0] if took else None)
        calls_b = self._calls(b, took[1] if took else None) if b else 1
        end = self.clock() + self.budget
        of_a, of_b = list[tuple[float, float]](), list[tuple[float, float]]()
        while len(of_a) < self.least or (len(of_a) < self.most and self.clock() < end):
            first = self.once(a, calls)
            if b:
                of_b.append((self.once(b, calls_b), self.once(b, calls_b)))
            of_a.append((first, self.once(a, calls)))
        return Pairs(tuple(of_a), tuple(of_b))

    def once(self, run: Run, calls: int = 1) -> float:
        """Seconds of one of so many runs in a row."""
        self._wait()
        start = self.clock()
        for _ in range(calls):
            run()
        self._wait()
        return (self.clock() - start) / calls

    def best(self, run: Run, budget: float = 0.3) -> float:
        """The fastest of several readings."""
        calls = self._calls(run)
        best, end = math.inf, self.clock() + budget
        while best == math.inf or self.clock() < end:
            best = min(best, self.once(run, calls))
        return best

    def _calls(self, run: Run, took: float | None = None) -> int:
        """Runs in a reading; the first of all is slower, since memory is taken and kernels are built, and tells little."""
        took = self.once(run) if took is None else took
        if took < 25 * SHORTEST:
            took = self.once(run)
        return max(1, math.ceil(SHORTEST / took)) if took and self.budget else 1

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best, measured in the same run.

    Attributes:
        copy, read: bytes a second, moved both ways and read.
        products: operations a second of a large matrix product, two for each multiplication with addition.
    """

    copy: float
    read: float
    products: dict[torch.dtype, float]

    def bound(self, moved: float, operations: float, dtype: torch.dtype) -> float:
        """Seconds below which work cannot be done that moves so many bytes and does so many operations."""
        return max(moved / max(self.copy, self.read), operations / self.products[dtype])


def measure_read(timer: Timer, source: Tensor, seconds: float = 0.3) -> float:
    """Bytes a second at which float32 memory of whole mebibytes is read, the best of several ways.

    A product with a vector reads as weights are read, on a GPU at its full speed. A CPU's may see half of what memory gives:
    a core waits for a few lines of each place that it reads at, so that it must read at several.
    """
    matrix, vector = source.view(-1, 4096), torch.randn(4096, device=source.device)
    best = timer.best(lambda: matrix @ vector, seconds)
    if source.is_cpu and memory.read(source, 1, 1) is not None:
        ways = (partial(memory.read, source, streams, torch.get_num_threads()) for streams in memory.STREAMS)
        best = min(best, *(timer.best(way, seconds) for way in ways))
    return source.nbytes / best


def measure_ceilings(timer: Timer, *, megabytes: int = 256, side: int = 2048, seconds: float = 0.3) -> Ceilings:
    """Ceilings of the timer's device: the best of several copies, sums and products."""
    device = timer.device
    source = torch.randn(megabytes << 18, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / timer.best(lambda: target.copy_(source), seconds)
    read = measure_read(timer, source, seconds)
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=device).to(dtype)
        products[dtype] = 2 * side**3 / timer.best(partial(linear, a, pack(a)), seconds)
    return Ceilings(copy, read, products)
