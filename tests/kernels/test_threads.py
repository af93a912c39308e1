"""Whoever waits sleeps: told by the CPU time of a process that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omni.kernels.linear import linear
from omni.kernels.native import build, few
from omni.kernels.threads import keep_torch_alone, num_threads

IDLE = """
import time, torch
from omni.kernels.threads import let_openmp_sleep
torch.set_num_threads(2)
x = torch.randn(1 << 20)
{prepare}
x + 1  # takes a worker, which then waits
before = time.process_time()
time.sleep(1)
print(time.process_time() - before)
"""


def idle_seconds(prepare: str) -> float:
    environment = os.environ | {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}
    told = subprocess.run(
        [sys.executable, "-c", IDLE.format(prepare=prepare)], env=environment, check=True, capture_output=True, text=True
    )
    return float(told.stdout)


def test_workers_of_openmp_sleep_whatever_was_asked_for() -> None:
    assert idle_seconds("") > 0.1  # else this says nothing
    assert min(idle_seconds("let_openmp_sleep()") for _ in range(2)) < 0.05


def test_torch_alone_leaves_kernels_their_threads() -> None:
    seen = list[tuple[int, int]]()

    def ask() -> None:
        for _ in range(2):
            keep_torch_alone()
            seen.append((torch.get_num_threads(), num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert torch.get_num_threads() == num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, 2)] * 2


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tensor]:
    """A product that is worth a second thread, which it is given."""
    assert build.library() is not None, build.status()
    monkeypatch.setattr(few, "num_threads", lambda: 2)
    weight, x = torch.randn(512, 1024).bfloat16(), torch.randn(3, 1024).bfloat16()
    return lambda: linear(x, weight)


def test_workers_of_ours_sleep(two_threads: Callable[[], Tensor]) -> None:
    two_threads()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


def test_many_callers_at_once(two_threads: Callable[[], Tensor]) -> None:
    want, wrong = two_threads(), list[Tensor]()

    def ask() -> None:
        for _ in range(200):
            got = two_threads()
            if not torch.equal(got, want):
                wrong.append(got)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_fork_has_workers_of_its_own() -> None:
    program = """
import os, torch
from omni.kernels.linear import linear
torch.set_num_threads(2)
weight, x = torch.randn(512, 1024).bfloat16(), torch.randn(3, 1024).bfloat16()
want = linear(x, weight)
child = os.fork()
if child == 0:
    os._exit(0 if all(torch.equal(linear(x, weight), want) for _ in range(50)) else 1)
print(os.waitpid(child, 0)[1])
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout == "0\n"
