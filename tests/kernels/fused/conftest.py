"""The Triton twins: on the GPU where there is one, else in the interpreter; and built for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.kernels import aot, triton_cpu


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """Where the twins run."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    triton_cpu.install()
    return torch.device("cpu")


@pytest.fixture(scope="session")
def built() -> aot.Built:
    """Every launch of `BUILDS` in the files `builds*.py` beside this one, by case and GPU ("sm_90")."""
    return aot.gate(*(f"{__package__}.{path.stem}" for path in sorted(Path(__file__).parent.glob("builds*.py"))))
