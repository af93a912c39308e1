from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni.streaming.audio.turn_detection import (
    BARGE_IN_HOPS,
    GAP_HOPS,
    HOP_LEN,
    HOP_MS,
    LONGEST_WAIT_MS,
    RATE,
    SHORTEST_SHARE,
    START_HOPS,
    Eagerness,
    SemanticVad,
    ServerVad,
    SpeechEvent,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    pitch,
    wait_ms,
)
from omni.streaming.problems import Problem

Wave = NDArray[np.float32]
ROOT = Path(__file__).parents[3]
QUESTIONS = sorted((ROOT / "demos" / "media").glob("*.ogg"))
HELD_OUT = [ROOT / "omni" / "bundled" / "eval" / "media" / f"{i:05}.ogg" for i in (1, 5)]
PADDING_MS, SILENCE_MS = ServerVad().prefix_padding_ms, ServerVad().silence_duration_ms


@cache
def recorded(path: Path, rate: int = RATE) -> Wave:
    samples, its_rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, its_rate, rate), np.float32)


def voice_ms(wave: Wave) -> tuple[float, float]:
    """When the voice of a clean recording begins and ends: 5 ms within 35 dB of the loudest."""
    frames = wave[: len(wave) // 80 * 80].reshape(-1, 80)
    power = (frames**2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10**-3.5)
    return loud[0] * 5.0, loud[-1] * 5.0 + 5


def silence(ms: float, rate: int = RATE) -> Wave:
    return np.zeros(round(ms * rate / 1000), np.float32)


def noisy(wave: Wave, db: float) -> Wave:
    noise = np.random.default_rng(0).standard_normal(len(wave))
    return (wave + noise * 10 ** (db / 20)).astype(np.float32)


def around(wave: Wave, before_ms: float = 1000, after_ms: float = 1000, rate: int = RATE) -> Wave:
    return np.concatenate([silence(before_ms, rate), wave, silence(after_ms, rate)])


def heard(detector: TurnDetector, wave: Wave, speaking: bool = False, piece: int = 1000) -> list[SpeechEvent]:
    return [e for at in range(0, len(wave), piece) for e in detector.push(wave[at : at + piece], speaking)]


def kinds(events: Iterable[SpeechEvent]) -> list[str]:
    return [type(event).__name__.removeprefix("Speech") for event in events]


WHOLE_TURN = ["Started", "Paused", "Stopped"]


# Real voices


@pytest.mark.parametrize("background", [None, -45])
@pytest.mark.parametrize("path", [*QUESTIONS, *HELD_OUT], ids=lambda path: path.stem)
def test_a_sentence_is_one_turn(path: Path, background: float | None) -> None:
    begins, ends = (1000 + ms for ms in voice_ms(recorded(path)))
    wave = around(recorded(path))
    events = heard(TurnDetector(ServerVad(), RATE), wave if background is None else noisy(wave, background))
    assert kinds(events) == WHOLE_TURN
    started, paused, stopped = events
    assert isinstance(started, SpeechStarted) and isinstance(paused, SpeechPaused) and isinstance(stopped, SpeechStopped)
    assert started.at_ms + PADDING_MS == pytest.approx(begins, abs=150)
    # in noise the detector lets go of a voice more slowly
    assert paused.at_ms == pytest.approx(ends + 200, abs=200)
    assert stopped.at_ms == pytest.approx(ends + SILENCE_MS, abs=200)


@pytest.mark.parametrize("rate", [8000, 24000, 44100])
def test_the_rate_changes_no_time(rate: int) -> None:
    truth = heard(TurnDetector(ServerVad(), RATE), around(recorded(QUESTIONS[0])))
    events = heard(TurnDetector(ServerVad(), rate), around(recorded(QUESTIONS[0], rate), rate=rate))
    assert kinds(events) == kinds(truth) == WHOLE_TURN
    for event, true in zip(events, truth, strict=True):
        assert not isinstance(event, SpeechResumed) and not isinstance(true, SpeechResumed)
        assert event.at_ms == pytest.approx(true.at_ms, abs=2 * HOP_MS)


SECONDS = np.arange(4 * RATE) / RATE
NOISE = np.random.default_rng(1).standard_normal(len(SECONDS))
NO_VOICE = {
    "silence": 0 * SECONDS,
    "quiet noise": 1e-3 * NOISE,
    "loud noise": 0.1 * NOISE,
    "noise that comes and goes": 0.1 * NOISE * (1 + np.sin(2 * np.pi * 3 * SECONDS)),
    "deep noise": 0.02 * np.convolve(NOISE, np.ones(40), "same"),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * SECONDS),
    "hum": 0.1 * np.sin(2 * np.pi * 50 * SECONDS) + 0.05 * np.sin(2 * np.pi * 150 * SECONDS),
    "buzz": 0.2 * np.sign(np.sin(2 * np.pi * 130 * SECONDS)),
    "beeps": 0.3 * np.sin(2 * np.pi * 800 * SECONDS) * (SECONDS % 1 < 0.3),
    "claps": 0.5 * NOISE * np.exp(-(SECONDS % 0.5) * 100),
}


@pytest.mark.parametrize("name", NO_VOICE)
def test_what_is_no_voice_begins_no_turn(name: str) -> None:
    assert heard(TurnDetector(ServerVad(), RATE), NO_VOICE[name].astype(np.float32)) == []


CONVERSATION = np.concatenate(
    [
        around(recorded(QUESTIONS[0], 24000), 400, 350, rate=24000),
        around(recorded(QUESTIONS[1], 24000), 0, 800, rate=24000),
    ]
)


@cache
def conversation(detection: ServerVad | SemanticVad) -> tuple[SpeechEvent, ...]:
    return tuple(TurnDetector(detection, 24000).push(CONVERSATION, False))


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=30),
    detection=st.sampled_from([ServerVad(), SemanticVad("high")]),
)
def test_pieces_bring_about_what_the_whole_does(cuts: list[int], detection: ServerVad | SemanticVad) -> None:
    detector = TurnDetector(detection, 24000)
    events: list[SpeechEvent] = []
    for start, end in pairwise([0, *sorted(cuts), len(CONVERSATION)]):
        events += detector.push(CONVERSATION[start:end], False)
        assert detector.offset_ms == end * 1000 // 24000
        assert all(isinstance(e, SpeechResumed) or e.at_ms <= detector.offset_ms for e in events)
    assert tuple(events) == conversation(detection)


def test_a_pause_is_told_and_taken_back() -> None:
    assert kinds(conversation(ServerVad())) == ["Started", "Paused", "Resumed", "Paused", "Stopped"]


def test_listeners_share_nothing() -> None:
    waves = [around(recorded(path), 200, 800) for path in QUESTIONS[:2]]
    detectors = [TurnDetector(ServerVad(), RATE) for _ in waves]
    together: list[list[SpeechEvent]] = [[], []]
    for at in range(0, max(map(len, waves)), 700):
        for detector, wave, events in zip(detectors, waves, together, strict=True):
            events += detector.push(wave[at : at + 700], False)
    assert together == [heard(TurnDetector(ServerVad(), RATE), wave) for wave in waves]


def test_padding_ends_where_the_last_turn_did() -> None:
    detector = TurnDetector(ServerVad(prefix_padding_ms=3000), RATE)
    question = around(recorded(QUESTIONS[0]), 0, 700)
    started, _, stopped, again, *_ = heard(detector, np.concatenate([question, question]))
    assert started == SpeechStarted(0)
    assert isinstance(stopped, SpeechStopped) and again == SpeechStarted(stopped.at_ms)


def test_listening_may_begin_later() -> None:
    wave = around(recorded(QUESTIONS[0]), 100)
    usual = heard(TurnDetector(ServerVad(), RATE), wave)
    detector = TurnDetector(ServerVad(), RATE, start_ms=5000)
    later = heard(detector, wave)
    assert detector.offset_ms == 5000 + len(wave) // 16
    assert kinds(later) == kinds(usual) and later[0] == SpeechStarted(5000)
    for early, late in zip(usual[1:], later[1:], strict=True):
        assert not isinstance(early, SpeechResumed) and not isinstance(late, SpeechResumed)
        assert late.at_ms == early.at_ms + 5000


def interrupted_after(detector: TurnDetector, wave: Wave) -> float | None:
    """Milliseconds of `wave` until a turn began, while the model is being heard."""
    for at in range(0, len(wave), HOP_LEN):
        if "Started" in kinds(detector.push(wave[at : at + HOP_LEN], True)):
            return (at + HOP_LEN) / RATE * 1000
    return None


def after_a_turn() -> TurnDetector:
    detector = TurnDetector(ServerVad(), RATE)
    assert kinds(heard(detector, noisy(around(recorded(QUESTIONS[0]), 200, 800), -65))) == WHOLE_TURN
    return detector


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_talking_over_the_model_interrupts(path: Path) -> None:
    wave = noisy(around(recorded(path), 500), -65)
    after = interrupted_after(after_a_turn(), wave)
    assert after is not None
    spent = after - 500 - voice_ms(recorded(path))[0]
    assert BARGE_IN_HOPS * HOP_MS <= spent <= (BARGE_IN_HOPS + GAP_HOPS + 3) * HOP_MS


@pytest.mark.parametrize("db", [-18, -30])
@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_a_quiet_echo_does_not_interrupt(path: Path, db: float) -> None:
    wave = noisy(around(recorded(path), 500) * np.float32(10 ** (db / 20)), -65)
    assert interrupted_after(after_a_turn(), wave) is None


def test_a_short_word_does_not_interrupt() -> None:
    question = recorded(QUESTIONS[0])
    begins = round(voice_ms(question)[0] * 16)
    wave = noisy(around(question[begins : begins + 200 * 16], 500), -65)
    assert interrupted_after(after_a_turn(), wave) is None
    assert kinds(heard(after_a_turn(), wave)) == WHOLE_TURN  # while the model is silent it is a turn


# Decisions, hop by hop

LOUD = 0.1


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, SpeechEvent]]]:
    """Events of hops with the given probabilities, each with the number of the hop that brought it about."""

    def run(
        probabilities: list[float],
        detection: ServerVad | SemanticVad | None = None,
        speaking: bool = False,
        amplitude: float = LOUD,
        detector: TurnDetector | None = None,
    ) -> list[tuple[int, SpeechEvent]]:
        script = iter(probabilities)
        detector = detector or TurnDetector(detection or ServerVad(prefix_padding_ms=0), RATE)
        monkeypatch.setattr(detector, "_detector", type("Script", (), {"process_samples": lambda self, _: next(script)})())
        hop = np.full(HOP_LEN, amplitude, np.float32)
        return [(i, event) for i in range(len(probabilities)) for event in detector.push(hop, speaking)]

    return run


@pytest.mark.parametrize(
    ("probabilities", "hop"),
    [
        ([0.5] * 3, 2),
        ([0.49] * 20, None),
        ([0, 0.9, 0.9, 0, 0, 0.9], 5),  # a gap within a word
        ([0.9, 0, 0, 0.9, 0, 0, 0.9], 6),
        ([0.9, 0.9, 0, 0, 0, 0.9, 0.9, 0, 0, 0], None),
    ],
)
def test_what_begins_a_turn(hops: Any, probabilities: list[float], hop: int | None) -> None:
    begins = next(i for i, p in enumerate(probabilities) if p >= 0.5) if hop is not None else 0
    assert hops(probabilities) == ([] if hop is None else [(hop, SpeechStarted(begins * HOP_MS))])


@pytest.mark.parametrize(
    ("probability", "amplitude", "hop"),
    [(0.75, LOUD, BARGE_IN_HOPS - 1), (0.74, LOUD, None), (0.99, 0.001, None)],
)
def test_what_interrupts(hops: Any, probability: float, amplitude: float, hop: int | None) -> None:
    events = hops([probability] * 40, speaking=True, amplitude=amplitude)
    assert events == ([] if hop is None else [(hop, SpeechStarted(0))])


def test_loudness_is_learned_from_the_person(hops: Any) -> None:
    def interrupts(person: float, echo: float) -> bool:
        detector = TurnDetector(ServerVad(), RATE)
        hops([0.9] * 100 + [0.0] * 20, amplitude=person, detector=detector)
        return bool(hops([0.9] * BARGE_IN_HOPS, speaking=True, amplitude=echo, detector=detector))

    assert interrupts(0.2, 0.06) and not interrupts(0.2, 0.04)
    assert interrupts(0.01, 0.003) and not interrupts(0.01, 0.002)


def test_loudness_is_not_learned_from_the_model(hops: Any) -> None:
    detector = TurnDetector(ServerVad(), RATE)
    hops([0.9] * 100, amplitude=0.01, detector=detector)
    hops([0.9] * 100 + [0.0] * 20, amplitude=0.5, speaking=True, detector=detector)  # both at once: the turn goes on
    assert kinds(event for _, event in hops([0.9] * BARGE_IN_HOPS, speaking=True, amplitude=0.01, detector=detector)) == [
        "Started"
    ]


def test_a_voice_that_wavers_goes_on(hops: Any) -> None:
    assert kinds(event for _, event in hops([0.9] * 3 + [0.36] * 50)) == ["Started"]
    assert kinds(event for _, event in hops([0.9] * 3 + [0.34] * 50)) == WHOLE_TURN
    # silence that has begun is not ended by less than a voice
    assert kinds(event for _, event in hops([0.9] * 3 + [0.34] + [0.45] * 50)) == WHOLE_TURN


@pytest.mark.parametrize(("silence_ms", "num_hops"), [(0, 1), (32, 1), (33, 2), (200, 7), (500, 16), (10_000, 313)])
def test_the_silence_that_ends_a_turn(hops: Any, silence_ms: int, num_hops: int) -> None:
    detection = ServerVad(prefix_padding_ms=0, silence_duration_ms=silence_ms)
    pause = min(num_hops, 7)
    assert hops([0.9] * 3 + [0.0] * 400, detection)[1:] == [
        (2 + pause, SpeechPaused((3 + pause) * HOP_MS)),
        (2 + num_hops, SpeechStopped((3 + num_hops) * HOP_MS)),
    ]


def test_resuming_starts_the_silence_anew(hops: Any) -> None:
    events = hops([0.9] * 3 + [0.0] * 15 + [0.9] + [0.0] * 15 + [0.9])
    assert kinds(event for _, event in events) == ["Started", "Paused", "Resumed", "Paused", "Resumed"]


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.9, 1.0])
def test_any_threshold_ends_what_it_begins(hops: Any, threshold: float) -> None:
    events = hops([threshold] * START_HOPS + [0.0] * 40, ServerVad(threshold))
    assert kinds(event for _, event in events) == WHOLE_TURN


# The melody

EAGERNESS: list[Eagerness] = ["low", "medium", "high", "auto"]


def harmonics(hertz: float, num_samples: int = 1024) -> Wave:
    times = np.arange(num_samples) / RATE
    tones = [np.sin(2 * np.pi * k * hertz * times) / k for k in range(1, 6)]
    return np.sum(tones, axis=0, dtype=np.float32)


@pytest.mark.parametrize("hertz", [80, 120, 200, 310])
@pytest.mark.parametrize("scale", [0.001, 0.2])
def test_pitch(hertz: float, scale: float) -> None:
    found = pitch(noisy(harmonics(hertz) * np.float32(scale), 20 * math.log10(scale) - 20))
    assert found == pytest.approx(12 * math.log2(hertz), abs=0.5)


@pytest.mark.parametrize("wave", [np.zeros(1024, np.float32), noisy(np.zeros(1024, np.float32), -20)])
def test_noise_has_no_pitch(wave: Wave) -> None:
    assert pitch(wave) is None


@pytest.mark.parametrize("eagerness", EAGERNESS)
def test_waits(eagerness: Eagerness) -> None:
    longest = LONGEST_WAIT_MS[eagerness]
    ends = [(90 + step, wait_ms(eagerness, [90.0] * 20 + [90.0 + step] * 6)) for step in (-9, -2, -1, 0, 1, 2, 9)]
    waits = [wait for _, wait in ends]
    assert waits == sorted(waits)
    assert waits[:2] == pytest.approx([longest * SHORTEST_SHARE] * 2) and waits[-2:] == pytest.approx([longest] * 2)
    middle = longest * math.sqrt(SHORTEST_SHARE)
    assert [waits[3], wait_ms(eagerness, []), wait_ms(eagerness, [90.0] * 3)] == pytest.approx([middle] * 3)


def test_eagerness_is_the_protocols() -> None:
    assert {"low": 8000, "medium": 4000, "high": 2000, "auto": 4000} == LONGEST_WAIT_MS


def bent(wave: Wave, semitones: float) -> Wave:
    """The recording with its last 0.35 s of voice rising or sinking, in time and pitch."""
    ends = round(voice_ms(wave)[1] * 16)
    speed = np.ones(len(wave))
    speed[ends - 5600 :] = 2 ** (semitones / 12)
    at = np.cumsum(speed)
    return np.interp(np.arange(0, len(wave), 1.0), np.arange(len(wave)), wave)[at[at < len(wave)].astype(int)].astype(
        np.float32
    )


def silence_waited(wave: Wave, eagerness: Eagerness) -> int:
    """Milliseconds from the pause to the end of the turn."""
    events = heard(
        TurnDetector(SemanticVad(eagerness), RATE), noisy(around(wave, 300, LONGEST_WAIT_MS[eagerness] + 500), -65)
    )
    assert kinds(events) == WHOLE_TURN
    _, paused, stopped = events
    assert isinstance(paused, SpeechPaused) and isinstance(stopped, SpeechStopped)
    return stopped.at_ms - paused.at_ms


@pytest.mark.parametrize("path", QUESTIONS[:2], ids=lambda path: path.stem)
def test_a_voice_that_sinks_is_answered_sooner(path: Path) -> None:
    sinking, rising = (silence_waited(bent(recorded(path), semitones), "auto") for semitones in (-4, 4))
    assert sinking < 0.6 * rising


def test_an_earlier_turn_does_not_count() -> None:
    question = noisy(around(recorded(QUESTIONS[0]), 300, 4500), -65)
    detector = TurnDetector(SemanticVad(), RATE)
    low = np.interp(np.arange(0, len(question), 0.7), np.arange(len(question)), question).astype(np.float32)
    assert kinds(heard(detector, low)) == WHOLE_TURN
    *_, paused, stopped = heard(detector, question)
    assert isinstance(paused, SpeechPaused) and isinstance(stopped, SpeechStopped)
    assert stopped.at_ms - paused.at_ms == pytest.approx(silence_waited(recorded(QUESTIONS[0]), "auto"), abs=4 * HOP_MS)


def test_eagerness_shortens_the_wait() -> None:
    waits = {eagerness: silence_waited(recorded(QUESTIONS[0]), eagerness) for eagerness in EAGERNESS}
    assert waits["low"] > waits["medium"] > waits["high"] and waits["auto"] == waits["medium"]
    assert all(wait + 200 <= LONGEST_WAIT_MS[eagerness] + HOP_MS for eagerness, wait in waits.items())


# Ranges


@pytest.mark.parametrize(
    ("cls", "name", "good", "bad"),
    [
        (ServerVad, "threshold", [0, 0.5, 1], [-0.1, 1.1, math.nan, math.inf, "0.5", None, True]),
        (ServerVad, "prefix_padding_ms", [0, 10_000], [-1, 10_001, 300.0, "300", None, True]),
        (ServerVad, "silence_duration_ms", [0, 10_000], [-1, 10_001, 500.5, [], None, False]),
        (ServerVad, "idle_timeout_ms", [None, 5000, 30_000], [0, 4999, 30_001, 6000.0, "6000", True]),
        (ServerVad, "create_response", [True, False], [None, 0, "true"]),
        (ServerVad, "interrupt_response", [True, False], [None, 1, "true"]),
        (SemanticVad, "eagerness", EAGERNESS, ["", "LOW", None, 1, ["low"]]),
        (SemanticVad, "create_response", [True, False], [None, 0]),
        (SemanticVad, "interrupt_response", [True, False], [None, 1]),
    ],
)
def test_ranges(cls: type, name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(cls(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(Problem) as caught:
            cls(**{name: value})
        assert caught.value.param == f"session.audio.input.turn_detection.{name}"
        assert caught.value.status == 400
