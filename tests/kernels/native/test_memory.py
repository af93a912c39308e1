"""The ceiling that products bound by their weights are held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omni.bench.timing import Timer, measure_read
from omni.kernels.native import memory

pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("streams", memory.STREAMS)
def test_all_is_read(streams: int, num_threads: int) -> None:
    x = torch.zeros(3 << 18, dtype=torch.int32)
    assert memory.read(x, streams, num_threads) == 0
    for at in (0, 17, (1 << 18) - 1, 1 << 18, len(x) - 1):
        x[at] = 1 + at
        assert memory.read(x, streams, num_threads) == 1 + at
        x[at] = 0
    x.random_(0, 1 << 30)
    want = 0
    for word in x.tolist():
        want ^= word
    assert memory.read(x, streams, num_threads) == want


def test_the_ceiling_is_not_below_what_others_read() -> None:
    """Least of some tries each, in turns: neighbours take from all alike."""
    x = torch.randn(32 << 18)  # more than caches hold
    matrix, vector = x.view(-1, 1024), torch.randn(1024)
    halves = x.view(torch.bfloat16).view(-1, 4096)
    others: list[Callable[[], Tensor]] = [x.sum, lambda: matrix @ vector, x.amax, lambda: halves.view(torch.int16).amax()]

    def gap() -> float:
        theirs = min(_least(other) for other in others)
        return x.nbytes / theirs / measure_read(Timer(budget=0), x, 0.05)

    assert min(gap() for _ in range(4)) <= 1.1


def _least(run: Callable[[], Tensor]) -> float:
    took = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took)
