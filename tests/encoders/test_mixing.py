"""Channels to one: the plain mean bit for bit, but where they cancel each other."""

from __future__ import annotations

import numpy as np
import pytest

from omni.encoders.mixing import mixed
from omni.encoders.timeline import Samples
from tests.encoders.samples import Wave, speech_like

RATE = 4000


def mix(samples: Samples, step: int = 1024) -> Wave:
    return np.concatenate(list(mixed((samples[:, at : at + step] for at in range(0, samples.shape[1], step)), RATE)))


def noise(channels: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, 5 * RATE + 77)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("step", [100, 1024, 30_000])
def test_the_mean_where_channels_agree_or_differ(channels: int, step: int) -> None:
    samples = noise(channels)
    samples[:, RATE : 2 * RATE] = 0
    samples[1:, 2 * RATE : 4 * RATE] = 0  # one of them alone
    np.testing.assert_array_equal(mix(samples, step), np.mean(samples, axis=0, dtype=np.float32))


@pytest.mark.parametrize("gain", [-1.0, -0.8, -1.2])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.3])
def test_the_louder_one_where_they_would_vanish(gain: float, seconds: float) -> None:
    wave = speech_like(seconds, RATE)
    samples = np.stack([wave, np.float32(gain) * wave])
    np.testing.assert_array_equal(mix(samples), samples[1 if gain < -1 else 0])
    samples += np.float32(0.25)  # a level that stands still, as cheap microphones have, hides nothing
    np.testing.assert_array_equal(mix(samples), samples[1 if gain < -1 else 0])


def test_surround_whose_channels_cancel() -> None:
    wave = speech_like(2, RATE)
    samples = np.stack([wave, -wave, 0 * wave, 0 * wave, 0.9 * wave, -0.9 * wave])
    np.testing.assert_array_equal(mix(samples), wave)


def test_only_the_seconds_that_would_vanish_are_heard_from_one_channel() -> None:
    wave = speech_like(6, RATE)
    samples = np.stack([wave, wave])
    samples[1, 2 * RATE : 4 * RATE] *= -1
    fade = RATE // 100
    differ = np.flatnonzero(mix(samples, RATE) != wave)  # only where one becomes the other
    assert set(differ) <= {*range(2 * RATE, 2 * RATE + fade), *range(4 * RATE, 4 * RATE + fade)}
    samples[1, : 2 * RATE] = noise(1)[0, : 2 * RATE]
    out = mix(samples, RATE)
    np.testing.assert_array_equal(out[: 2 * RATE], np.mean(samples[:, : 2 * RATE], axis=0))
    np.testing.assert_allclose(out[2 * RATE + fade :], wave[2 * RATE + fade :], atol=1e-7)
    assert np.abs(np.diff(out)).max() <= max(np.abs(np.diff(samples[0])).max(), np.abs(np.diff(np.mean(samples, 0))).max())


def test_the_channel_that_is_heard_stays_where_another_is_hardly_louder() -> None:
    wave = speech_like(4, RATE)
    samples = np.stack([wave, -wave])
    samples[1, 2 * RATE :] *= 1.1
    np.testing.assert_array_equal(mix(samples, RATE), wave)


def test_the_number_of_channels_may_change() -> None:
    wave = speech_like(3, RATE)
    parts = [wave[None, :5000], np.stack([wave, -wave])[:, 5000:9000], wave[None, 9000:]]
    np.testing.assert_array_equal(np.concatenate(list(mixed(parts, RATE))), wave)
