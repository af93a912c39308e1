"""Twins in C need a compiler, which CI has; without one these tests would compare the plain way with itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from omni.kernels.native import build


@pytest.fixture
def needs_compiler() -> None:
    assert build.library() is not None, build.status()


@pytest.fixture
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
