"""What is recorded, when, and for how long; a stand-in records on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from omni.errors import DeviceError
from omni.kernels.replay import Replays, replays_on
from tests.kernels.recording import stand_in


class Counting:
    def __init__(self) -> None:
        self.records = 0

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Any:
        self.records += 1
        return stand_in(run)


def double(x: Tensor) -> tuple[Tensor]:
    return (2 * x + 1,)


def test_what_comes_again_is_recorded() -> None:
    record = Counting()
    replays = Replays(record, most=8)
    for num, records in ((1, 0), (2, 0), (1, 1), (1, 1), (2, 2), (2, 2)):
        x = torch.randn(num)
        (y,) = replays("double", double, x)
        assert torch.equal(y, 2 * x + 1)
        assert record.records == records


def test_names_and_dtypes_have_records_of_their_own() -> None:
    record = Counting()
    replays = Replays(record, most=8)
    for _ in range(2):
        assert replays("double", double, torch.ones(2), at_once=True)[0].tolist() == [3, 3]
        assert replays("negative", lambda x: (-x,), torch.ones(2), at_once=True)[0].tolist() == [-1, -1]
        assert replays("double", double, torch.ones(2).double(), at_once=True)[0].dtype == torch.float64
    assert record.records == 3


def test_the_least_recently_used_goes() -> None:
    record = Counting()
    replays = Replays(record, most=2)
    for num, records in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        replays("double", double, torch.ones(num), at_once=True)
        assert record.records == records


def test_what_comes_once_takes_no_place() -> None:
    record = Counting()
    replays = Replays(record, most=1)
    for num in (1, 1, 2, 3, 4, 1):
        replays("double", double, torch.ones(num))
    assert record.records == 1


def test_results_stay_when_the_next_comes() -> None:
    replays = Replays(stand_in, most=2)
    (first,) = replays("double", double, torch.ones(2), at_once=True)
    replays("double", double, torch.zeros(2), at_once=True)
    assert first.tolist() == [3, 3]


def test_a_device_that_cannot_record_is_told() -> None:
    def refuse(run: Callable[[], Sequence[Tensor]]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(DeviceError, match="graphs=False"):
        Replays(refuse, most=1)("double", double, torch.ones(1), at_once=True)


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert replays_on(torch.device("cpu"), 4) is None


# ---- the stand-in


def test_it_sees_what_waits_for_the_device() -> None:
    with pytest.raises(AssertionError, match="waits for the device"):
        stand_in(lambda: [torch.zeros(2) * torch.ones(1).item()])


def test_it_forgets_the_host() -> None:
    """What reads the host goes wrong in a replay, so that tests with it can fail."""
    x, host = torch.ones(2), [1.0]
    replay, (out,) = stand_in(lambda: [x * host[0]])
    x.fill_(3)
    host[0] = 5.0
    replay()
    assert out.tolist() == [3.0, 3.0]
