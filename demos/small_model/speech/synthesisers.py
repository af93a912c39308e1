"""Command-line synthesisers as functions: text to a wave, to its phones and to the times of its words.

Voices are named "flite:" and one of slt, rms, kal16 and awb, or "espeak:" and a voice of espeak-ng ("espeak:en-us+f2").
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from demos.small_model.speech.espeak import Unit, Wave, espeak
from omni.errors import OmniError

UNIT = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
PAUSE = "pau"


def text_units(text: str) -> list[str]:
    """Words, and each punctuation mark on its own, in order."""
    return UNIT.findall(text)


def say(text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Wave, int]:
    """The spoken text.

    Args:
        rate: 2 speaks twice as fast.
        pitch: factor of the voice's own pitch; the flite voice `rms` ignores it.

    Returns:
        Mono samples `[S]` in -1..1, and samples per second.
    """
    return say_timed(text, voice, rate, pitch)[:2]


def say_timed(text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Wave, int, list[Unit]]:
    """`say`, and when each word is spoken; a pause may count as a part of the word before it."""
    engine, name = voice.split(":", 1)
    if engine == "flite":
        wave, sample_rate, spoken = _flite(text, name, rate, pitch)
        return wave, sample_rate, [unit for unit in _align(text, voice, spoken) if unit[0].isalpha()]
    return espeak().say(text, name, round(175 * rate), min(99, round(50 * pitch)))


def phones(text: str, voice: str) -> list[tuple[str, float]]:
    """Names of the phones of a flite voice, pauses included, and the seconds at which they end."""
    return _phones(_run("flite", "-voice", _flite_name(voice), "-psdur", "-t", text, "-o", "none"))


def align(text: str, voice: str) -> list[Unit]:
    """When a flite voice speaks each unit of the text."""
    return _align(text, voice, phones(text, voice))


def say_aligned(text: str, voice: str) -> tuple[Wave, int, list[Unit], list[tuple[str, float]]]:
    """`say`, `align` and `phones` at once, for a flite voice."""
    wave, rate, spoken = _flite(text, _flite_name(voice), 1.0, 1.0)
    return wave, rate, _align(text, voice, spoken), spoken


def _flite_name(voice: str) -> str:
    engine, name = voice.split(":", 1)
    if engine != "flite":
        raise OmniError(f"only flite tells the times of phones, {voice!r} does not")
    return name


def _flite(text: str, name: str, rate: float, pitch: float) -> tuple[Wave, int, list[tuple[str, float]]]:
    stretch = ("--setf", f"duration_stretch={1 / rate}") if rate != 1 else ()
    shift = ("--setf", f"f0_shift={pitch}") if pitch != 1 else ()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wave.wav"
        spoken = _run("flite", "-voice", name, *stretch, *shift, "-psdur", "-t", text, "-o", str(path))
        return (*_read(path), _phones(spoken))


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        program = command[0]
        raise OmniError(f"{program} is not installed; apt-get install {program}") from None
    except subprocess.CalledProcessError as e:
        raise OmniError(f"{' '.join(command)} failed: {e.stderr.strip()}") from e


def _read(path: Path) -> tuple[Wave, int]:
    wave, rate = soundfile.read(path, dtype="float32")
    return wave, rate


def _phones(printed: str) -> list[tuple[str, float]]:
    """From "dh:0.234 eh:0.294", ends in seconds."""
    pairs = (item.rsplit(":", 1) for item in printed.split())
    return [(name, float(end)) for name, end in pairs]


@cache
def _word_phones(word: str, voice: str) -> tuple[str, ...]:
    return tuple(name for name, _ in phones(word, voice) if name != PAUSE)


def _align(text: str, voice: str, spoken: list[tuple[str, float]]) -> list[Unit]:
    units = text_units(text)
    words = [i for i, unit in enumerate(units) if unit.isalpha()]
    expected = [(name, i) for i in words for name in _word_phones(units[i], voice)]
    starts = [0.0, *(end for _, end in spoken[:-1])]
    heard = [(name, start, end) for (name, end), start in zip(spoken, starts, strict=True) if name != PAUSE]
    owners = [i for _, i in expected]
    if len(owners) != len(heard):
        owners = _match(expected, [name for name, _, _ in heard])
    pauses = {start: end for (name, end), start in zip(spoken, starts, strict=True) if name == PAUSE}

    times: list[Unit] = []
    now = heard[0][1] if heard else 0.0
    for i, unit in enumerate(units):
        if unit.isalpha():
            own = [phone for phone, owner in zip(heard, owners, strict=True) if owner == i]
            start, end = (own[0][1], own[-1][2]) if own else (now, now)
        else:  # the pause after the word before it, which a first mark takes whole
            start, end = now, pauses.get(now, now)
        times.append((unit, start, end))
        now = end
    return times


def _match(expected: list[tuple[str, int]], heard: list[str]) -> list[int]:
    """Which unit each phone heard belongs to, by the fewest edits from the phones expected."""
    rows, columns = len(expected) + 1, len(heard) + 1
    cost = np.zeros((rows, columns), np.int64)
    cost[:, 0], cost[0] = np.arange(rows), np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            swap = cost[i - 1, j - 1] + (expected[i - 1][0] != heard[j - 1])
            cost[i, j] = min(swap, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    owners = [0] * len(heard)
    i, j = rows - 1, columns - 1
    while j:
        if i and cost[i, j] == cost[i - 1, j - 1] + (expected[i - 1][0] != heard[j - 1]):
            i, j = i - 1, j - 1
            owners[j] = expected[i][1]
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
            owners[j] = expected[max(i - 1, 0)][1]
    return owners
