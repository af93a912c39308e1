"""What every test shares: one thread, no network, a fixed seed, tiny checkpoints."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: see tests/kernels/triton_cpu.py

from tests import sharing

sharing.folder()  # made before pytest-xdist's workers start, so that they find it
settings.register_profile("omni", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # speed belongs in benches
settings.load_profile("omni")
torch.set_num_threads(1)  # so that sums run in one order, and small machines do not stall


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_make_parametrize_id(val: object) -> str | None:
    """No test is called after a file's bytes: some hold the time, and xdist's workers must agree on the names."""
    return "bytes" if isinstance(val, bytes) and len(val) > 40 else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`checkpoint` is a tiny one of every geometry; a test that wants one of them calls `tiny(name)`."""
    if "checkpoint" in metafunc.fixturenames:
        # Not at the top: transformers takes seconds to import, and neither most tests nor xdist's first process need it.
        from tests.oracle.tiny import GEOMETRIES

        metafunc.parametrize("checkpoint", list(GEOMETRIES), indirect=True, scope="session")


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    from tests.oracle.tiny import tiny  # late, as above

    return tiny(request.param)
