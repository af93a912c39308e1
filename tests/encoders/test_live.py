"""Sounds that are still being made, at any rate, against whole ones."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from omni.encoders.config import MelConfig
from omni.encoders.live import LiveSound
from omni.encoders.mel import LogMel, log_mel
from omni.encoders.sources import Budget
from omni.encoders.waves import read_audio
from omni.errors import MediaError, MediaLimitError
from tests.encoders.samples import speech_like

CONFIG = MelConfig(sampling_rate=16000, n_fft=400, hop_length=160, feature_size=128, chunk_length=12)
LIVE = LiveSound(LogMel(CONFIG), Budget())


@pytest.mark.parametrize("rate", [16000, 8000, 44100, 24000, 48000, 11025])
@pytest.mark.parametrize("seconds", [0.021, 1.99, 2.0, 4.0125, 9.77])
def test_pieces_are_the_whole_bit_for_bit(rate: int, seconds: float) -> None:
    """Resampling included: what soxr gives does not depend on how it is fed."""
    rng, wave = Random(rate), np.resize(speech_like(3, seed=rate), round(seconds * rate))
    wave *= np.linspace(0.1, 1, len(wave), dtype=np.float32)
    state, at = LIVE.start(rate), 0
    while at < len(wave):
        size = rng.choice([1, rate // 50, rate // 4, 2 * rate, 7 * rate])
        piece = wave[at : at + size].copy()
        LIVE.step(state, piece)
        piece[:] = np.nan  # it was copied
        at += size
    # a block is there once it and what resampling holds back have come; a tenth of a second is seen at 8 kHz
    assert state.num_blocks >= int((seconds - 0.15) / 2)
    blocks = LIVE.blocks(state)
    whole = log_mel(read_audio((wave, rate), rate=16000), CONFIG)
    for block, same in zip(blocks, whole.split(200), strict=False):
        assert (block.mel <= same.mel).all(), "but for what lay below a floor that was lower"
    assert np.array_equal(state.wave, wave)
    assert torch.equal(LIVE.finish(state).mel, whole.mel)


def test_what_is_refused_is_not_taken() -> None:
    state, wave = LIVE.start(8000), speech_like(1)[:8000]
    LIVE.step(state, wave)
    nowhere = np.full(9, np.nan, np.float32)
    for bad, words in ((np.zeros(9), "float64"), (np.zeros((9, 1), np.float32), r"\[9, 1\]"), (nowhere, "finite")):
        with pytest.raises(MediaError, match=words):
            LIVE.step(state, bad)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(MediaLimitError, match=r"13\.0 s.*12 s"):
        LIVE.step(state, np.zeros(12 * 8000, np.float32))
    with pytest.raises(MediaLimitError, match="budget"):
        LiveSound(LogMel(CONFIG), Budget(max_seconds=1.0)).step(state, wave)
    assert state.num_samples == 8000
    with pytest.raises(MediaError, match="no sample rate"):
        LIVE.start(0)
    assert torch.equal(LIVE.finish(state).mel, log_mel(read_audio((wave, 8000), rate=16000), CONFIG).mel)


def test_a_sound_too_short_to_be_heard() -> None:
    state = LIVE.start(16000)
    LIVE.step(state, np.zeros(320, np.float32))
    with pytest.raises(MediaError, match="over 20 ms"):
        LIVE.finish(state)
