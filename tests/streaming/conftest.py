"""The small bundled model, loaded once, and what tests of the page share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from playwright.sync_api import Playwright, sync_playwright

from omni import Omni

MEDIA = Path(__file__).parents[2] / "demos" / "media"


@pytest.fixture(scope="session")
def omni() -> Omni:
    return Omni.load(progress=False)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A WAV of pauses, in seconds, with a spoken question between each two of them."""
    wave, rate = soundfile.read(MEDIA / "where.ogg", dtype="float32")
    question: NDArray[np.float32] = soxr.resample(wave, rate, 48000)

    def make(*pauses: float) -> Path:
        silences = [np.zeros(int(48000 * pause), np.float32) for pause in pauses]
        parts = [silences[0]] + [part for silence in silences[1:] for part in (question, silence)]
        path = tmp_path_factory.mktemp("microphone") / "said.wav"
        soundfile.write(path, np.concatenate(parts), 48000, subtype="PCM_16")
        return path

    return make
