"""What every test shares: one thread, no network, a fixed seed, tiny checkpoints."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: see tests/kernels/triton_cpu.py

from tests.oracle.tiny import GEOMETRIES, tiny

torch.set_num_threads(1)  # so that sums run in one order, and small machines do not stall


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=list(GEOMETRIES))
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """A tiny checkpoint of every geometry; a test that wants one of them calls `tiny(name)`."""
    return tiny(request.param)
