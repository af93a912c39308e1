"""The small bundled model, loaded once."""

import pytest

from omni import Omni


@pytest.fixture(scope="session")
def omni() -> Omni:
    return Omni.load(progress=False)
