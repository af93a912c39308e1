"""Speech at another speed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from omni.streaming.audio.tempo import Tempo

RATE = 24000


def tone(hz: float, seconds: float) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def at_speed(speed: float, samples: NDArray[np.float32], piece: int) -> NDArray[np.float32]:
    tempo = Tempo(speed, RATE)
    pieces = [tempo.push(samples[at : at + piece]) for at in range(0, len(samples), piece)]
    return np.concatenate([*pieces, tempo.finish()])


def pitch(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE / len(samples))


@pytest.mark.parametrize("speed", [0.25, 0.3, 0.5, 0.9, 1.0, 1.37, 2.0, 4.0])
def test_length_changes_and_pitch_does_not(speed: float) -> None:
    sound = np.concatenate((tone(220, 1.5), tone(440, 1.5)))
    out = at_speed(speed, sound, 1111)
    assert len(out) == round(len(sound) / speed)
    half = len(out) // 2
    assert pitch(out[half // 4 : 3 * half // 4]) == pytest.approx(220, abs=3)
    assert pitch(out[half + half // 4 : half + 3 * half // 4]) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("speed", [0.25, 1.5])
def test_pieces_are_the_whole(speed: float) -> None:
    sound = tone(300, 1.0)
    np.testing.assert_array_equal(at_speed(speed, sound, 777), at_speed(speed, sound, len(sound)))


def test_at_its_own_speed_it_stays_as_it_is() -> None:
    sound = tone(300, 1.0)
    np.testing.assert_array_equal(at_speed(1.0, sound, 777), sound)


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0])
def test_the_last_sound_is_kept(speed: float) -> None:
    sound = np.concatenate((np.zeros(RATE, np.float32), tone(500, 0.05)))
    end = at_speed(speed, sound, 4096)[-round(0.03 * RATE / speed) :]
    assert np.sqrt(np.mean(end**2)) > 0.2


@pytest.mark.parametrize("num", [0, 1, 100, 1500])
def test_short_sounds(num: int) -> None:
    assert len(at_speed(2.0, tone(300, 1.0)[:num], 64)) == round(num / 2)


def test_it_does_not_wait_for_the_end() -> None:
    assert len(Tempo(1.5, RATE).push(tone(300, 1.0))) > RATE / 1.5 - 0.1 * RATE
