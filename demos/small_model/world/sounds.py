"""Makes the small world audible: tones, knocks, the beep of a clip; and the dirt that real recordings have."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt

from demos.small_model.speech.espeak import Unit
from demos.small_model.world.scenes import Clip, Sound

Wave = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
RATE = 16000


def sound_of(sound: Sound, rng: Random) -> tuple[Wave, list[Unit]]:
    """float32 [samples] at 16 kHz, 1.2 to 3 seconds: the sound at a random place in faint noise; and when it is what."""
    units: list[Unit] = []
    if sound.kind == "nothing":
        heard = np.zeros(0)
    elif sound.kind == "knock":
        heard, starts = _knocks(sound.count, rng)
        units = [("knock", at / RATE, at / RATE + 0.1) for at in starts]
    else:
        heard = _tone(sound.kind == "rise", rng)
        units = [("up" if sound.kind == "rise" else "down", 0.0, len(heard) / RATE)]
    shortest = len(heard) + int(0.1 * RATE)
    length = rng.randint(max(int(1.2 * RATE), shortest), 3 * RATE)
    wave = _hiss(length, rng)
    at = rng.randint(0, length - len(heard))
    wave[at : at + len(heard)] += heard
    return wave.astype(np.float32), [(name, start + at / RATE, end + at / RATE) for name, start, end in units]


def beep_track(clip: Clip, rng: Random) -> tuple[Wave, list[Unit]]:
    """float32 [seconds * 16000]: faint noise, and a beep of 0.3 s soon after second `clip.beep`; and when it is."""
    wave = _hiss(clip.seconds * RATE, rng)
    units: list[Unit] = []
    if clip.beep >= 0:
        t = np.arange(int(0.3 * RATE)) / RATE
        beep = rng.uniform(0.2, 0.5) * np.sin(2 * np.pi * rng.uniform(600, 1500) * t) * _edges(len(t))
        at = int((clip.beep + rng.uniform(0.05, 0.35)) * RATE)
        wave[at : at + len(beep)] += beep
        units.append(("beep", at / RATE, (at + len(beep)) / RATE))
    return wave.astype(np.float32), units


def soil(wave: Wave, rng: Random) -> Wave:
    """Speech as an ordinary microphone hears it: float32 [samples], up to 1.2 s longer, never clipped."""
    return soiled(wave, rng)[0]


def soiled(wave: Wave, rng: Random) -> tuple[Wave, float]:
    """`soil`, and the seconds of silence that now come before."""
    before, after = (int(rng.uniform(0, 0.6) * RATE) for _ in range(2))
    dirty = np.pad(wave.astype(np.float64), (before, after))
    loud = float(np.sqrt(np.mean(np.square(wave.astype(np.float64))))) if len(wave) else 0.0
    if rng.random() < 0.25:
        late = int(rng.uniform(0.02, 0.12) * RATE)
        dirty[late:] += rng.uniform(0.1, 0.35) * dirty[: len(dirty) - late].copy()
    if rng.random() < 0.75:
        noise = _noise(len(dirty), rng)
        level = max(loud, 1e-3) * 10 ** (-rng.uniform(12, 40) / 20)
        dirty += noise * level
    if rng.random() < 0.2:
        dirty = _band(dirty, rng.uniform(50, 250), rng.uniform(3300, 4000))
    dirty *= 10 ** (rng.uniform(-12, 6) / 20)
    quiet = dirty / max(1.0, float(np.max(np.abs(dirty), initial=0)) / 0.98)
    return quiet.astype(np.float32), before / RATE


def _tone(up: bool, rng: Random) -> Floats:
    """A pitch that glides or steps from one height to another, at least 1.4 apart."""
    seconds = rng.uniform(0.6, 1.6)
    n = int(seconds * RATE)
    low = rng.uniform(200, 900)
    high = low * rng.uniform(1.4, 2.8)
    t = np.arange(n) / n
    steps = rng.choice((0, 0, 2, 3, 4))
    level = np.ones(n)
    if steps:
        # a short dip between the steps, as between the notes of a pipe
        at = t * steps
        t = np.floor(at) / (steps - 1)
        edge = min(0.5, 0.02 * steps / seconds)
        level = np.minimum(1, np.minimum(at % 1, 1 - at % 1) / edge)
    pitch = low * (high / low) ** (t if up else 1 - t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    timbre = rng.choice(("sine", "triangle", "square"))
    wave = np.sin(phase)
    if timbre == "triangle":
        wave = np.arcsin(wave) * 2 / np.pi
    elif timbre == "square":
        # softer than a true square, which would alias
        wave = np.tanh(3 * wave)
    return rng.uniform(0.1, 0.4) * wave * level * _edges(n)


def _knocks(count: int, rng: Random) -> tuple[Floats, list[int]]:
    """Short thumps, evenly spaced but for a little; and the sample at which each begins."""
    generator = np.random.default_rng(rng.getrandbits(64))
    apart = rng.uniform(0.18, min(0.5, 2.5 / count))
    n = int(0.15 * RATE)
    t = np.arange(n) / RATE
    pitch, fade, thump = rng.uniform(90, 260), rng.uniform(35, 70), rng.uniform(0.4, 0.8)
    loud = rng.uniform(0.25, 0.6)
    wave = np.zeros(n + int(apart * (count - 1) * RATE) + int(0.04 * RATE))
    starts = []
    for i in range(count):
        at = int((i * apart + rng.uniform(0, 0.02)) * RATE)
        burst = generator.standard_normal(n) * np.exp(-2.5 * fade * t) * 0.5
        knock = thump * np.sin(2 * np.pi * pitch * t) * np.exp(-fade * t) + (1 - thump) * burst
        wave[at : at + n] += loud * rng.uniform(0.85, 1.1) * knock
        starts.append(at)
    return wave, starts


def _edges(n: int, fade: int = 320) -> Floats:
    """A level that comes and goes softly, [n]."""
    i = np.arange(n)
    return np.minimum(1, np.minimum(i, n - 1 - i) / fade)


def _hiss(n: int, rng: Random) -> Floats:
    generator = np.random.default_rng(rng.getrandbits(64))
    return generator.standard_normal(n) * 10 ** rng.uniform(-4, -2.7)


def _noise(n: int, rng: Random) -> Floats:
    """White or pink noise or the hum of the mains, [n], of loudness 1."""
    kind = rng.choice(("white", "pink", "pink", "hum"))
    if kind == "hum":
        t, mains = np.arange(n) / RATE, rng.choice((50, 60))
        noise = sum((np.sin(2 * np.pi * mains * k * t + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5)), np.zeros(n))
    else:
        noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(_smooth(n))
        if kind == "pink":
            spectrum = np.fft.rfft(noise)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1))
        noise = noise[:n]
    return noise / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-9)


def _band(wave: Floats, low: float, high: float) -> Floats:
    """What a telephone leaves of a wave."""
    n = _smooth(len(wave))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    passed = np.clip((hertz - low) / 50 + 1, 0, 1) * np.clip((high - hertz) / 300 + 1, 0, 1)
    return np.fft.irfft(np.fft.rfft(wave, n) * passed)[: len(wave)]


def _smooth(n: int) -> int:
    """At least n, without large prime factors: a Fourier transform of any other length is slow."""
    return -(-n // 3200) * 3200
