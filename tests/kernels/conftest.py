"""Memory that a kernel takes without filling it holds NaN, so that a row it forgets shows."""

from collections.abc import Iterator

import pytest
import torch

from omni.kernels import dispatch


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # with it, torch.empty fills with NaN
    assert torch.empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["plain", "native"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the plain truth, or by the twin that a CPU takes."""
    if request.param == "plain":
        monkeypatch.setattr(dispatch, "folder_of", lambda x: None)
    return str(request.param)
