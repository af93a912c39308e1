"""Recordings written down: pieces in order, what is told of them, the times of words."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from omni import Cutting, Omni, Segment, TextDelta, Transcript
from omni.encoders.waves import read_audio
from omni.engine.loop import Engine
from omni.errors import CapacityError, MediaError, OptionError
from omni.events import AudioChunk, Done, Word
from omni.transcription import TOGETHER, joint_of, words_of

RATE = 16000
MEDIA = Path(__file__).parents[2] / "demos" / "media"
SAID = {
    "where.ogg": "Where is the green heart?",
    "what_moves.ogg": "What moves?",
    "how_many.ogg": "How many red circles are there?",
}


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(progress=False)


def pause(seconds: float) -> NDArray[np.float32]:
    return (1e-4 * np.random.default_rng(5).standard_normal(round(seconds * RATE))).astype(np.float32)


def talk(names: list[str]) -> NDArray[np.float32]:
    return np.concatenate([part for name in names for part in (pause(0.6), read_audio(MEDIA / name, RATE))])


def test_a_file(omni: Omni) -> None:
    written = omni.transcribe(MEDIA / "where.ogg")
    (segment,) = written.segments
    assert written.text == segment.text == SAID["where.ogg"] and written.warnings == ()
    assert 0 <= segment.start < 0.2 and 1.0 < segment.end <= written.seconds < 1.4
    assert segment.words is None and 0 <= segment.no_speech < 0.3 and segment.limits == ()
    assert len(segment.logprobs) == len(segment.token_ids) == 6 == written.usage.text_tokens


def test_pieces_are_told_in_order(omni: Omni) -> None:
    """More than run at once; text is told while the recording is still being cut."""
    names = [*SAID] * 3
    assert len(names) > TOGETHER
    told = list(omni.stream_transcript((talk(names), RATE), words=True))
    *_, written = told
    assert isinstance(written, Transcript)
    assert written.text == "".join(event.text for event in told if isinstance(event, TextDelta))
    segments = [event for event in told if isinstance(event, Segment)]
    assert tuple(segments) == written.segments and [s.text for s in segments] == [SAID[name] for name in names]
    assert all(a.end < b.start for a, b in pairwise(segments))
    assert [word.text for word in written.words] == written.text.split()
    times = [time for word in written.words for time in (word.start, word.end)]
    assert times == sorted(times)
    for segment in segments:
        assert segment.words and segment.start - 0.11 <= segment.words[0].start < segment.words[-1].end <= segment.end + 0.11


def test_the_same_from_an_event_loop(omni: Omni) -> None:
    async def collected(source: Any) -> list[Any]:
        return [event async for event in omni.astream_transcript(source, words=True)]

    source = (talk([*SAID]), RATE)
    told = asyncio.run(collected(source))
    written = omni.transcribe(source, words=True)
    assert told[-1].text == written.text and told[-1].words == written.words
    assert [type(event) for event in told].count(Segment) == 3


@pytest.mark.parametrize(
    ("wave", "says"),
    [
        (np.zeros(2 * RATE, np.float32), "no voice"),
        ((0.1 * np.random.default_rng(1).standard_normal(6 * RATE)).astype(np.float32), "0.0-6.0 s"),
        ((0.3 * np.sin(np.arange(6 * RATE) * 0.2)).astype(np.float32), "0.0-6.0 s"),
        (np.zeros(100, np.float32), "no voice"),
    ],
    ids=["silence", "noise", "a tone", "too short"],
)
def test_where_nobody_speaks_nothing_is_written(omni: Omni, wave: NDArray[np.float32], says: str) -> None:
    written = omni.transcribe((wave, RATE))
    assert (written.text, written.segments, written.usage.text_tokens) == ("", (), 0)
    assert len(written.warnings) == 1 and says in written.warnings[0]


def test_a_text_that_is_cut_off_is_told_and_kept(omni: Omni) -> None:
    written = omni.transcribe((talk([*SAID]), RATE), max_tokens=3)
    assert [segment.limits for segment in written.segments] == [("text",)] * 3
    assert written.text == "Where is the What moves? How many red"
    assert len(written.warnings) == 3 and "cut off by the text limit" in written.warnings[0]


def test_how_it_is_asked(omni: Omni) -> None:
    assert omni.cutting == Cutting(longest=3.0, silence=0.1)
    wave = talk(["where.ogg", "what_moves.ogg"])
    (segment,) = omni.transcribe((wave, RATE), cutting=Cutting(longest=30, silence=5), instruction="Who are you?").segments
    assert segment.text != SAID["where.ogg"]
    with pytest.raises(OptionError):
        omni.transcribe((wave, RATE), temperature=-1)
    with pytest.raises(MediaError, match="cannot be opened"):
        omni.transcribe("nowhere.wav")


def test_closing_ends_all(omni: Omni) -> None:
    events = omni.stream_transcript((talk([*SAID] * 3), RATE))
    next(events)
    events.close()
    assert omni.engine.call(lambda: len(omni.engine._live)) == 0


def test_leaving_ends_all(omni: Omni) -> None:
    async def leave() -> None:
        async def all_of() -> None:
            async for _ in omni.astream_transcript((talk([*SAID] * 3), RATE)):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.ensure_future(all_of())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert omni.engine.call(lambda: len(omni.engine._live)) == 0


def test_a_full_engine_is_waited_for(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that has no room comes when one before it has ended; the first is refused."""
    submit, most = Engine.submit, threading.Semaphore(2)

    def crowded(engine: Engine, requests: Any, outbox: Any) -> None:
        if not most.acquire(blocking=False):
            raise CapacityError("full")
        for request in requests:
            request.then = most.release
        submit(engine, requests, outbox)

    monkeypatch.setattr(Engine, "submit", crowded)
    assert omni.transcribe((talk([*SAID]), RATE)).text == " ".join(SAID.values())
    most.acquire()
    most.acquire()
    with pytest.raises(CapacityError):
        omni.transcribe((talk([*SAID]), RATE))


def truth(codes: tuple[int, ...], seconds: float) -> list[float]:
    """When each word of the small model's own speech begins: its codes count words, see its README."""
    counted = (np.array(codes) - 1) % 17
    begins = np.flatnonzero(np.diff(counted, prepend=-1))
    return (begins * seconds / len(codes)).tolist()


@pytest.mark.parametrize("voice", ["Chelsie", "Ethan"])
def test_when_words_were_said(omni: Omni, voice: str) -> None:
    """Against what its voice says of itself: half within 50 ms."""
    errors: list[float] = []
    for text in ("Where is the green heart?", "What comes after forty one?", "The star is blue."):
        events = list(omni.say(text, voice=voice, seed=1))
        wave = np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])
        done = events[-1]
        assert isinstance(done, Done)
        starts = truth(done.codes, len(wave) / omni.sample_rate)
        before = pause(0.5)
        heard = np.concatenate([before, soxr.resample(wave, omni.sample_rate, RATE).astype(np.float32), before])
        words = omni.transcribe((heard, RATE), words=True).words
        if [word.text.strip("?.") for word in words] == text.strip("?.").split():
            errors += [abs(word.start - 0.5 - start) for word, start in zip(words, starts, strict=False)]
    assert len(errors) > 8 and median(errors) < 0.05 and max(errors) < 0.4


def test_words_of_tokens() -> None:
    texts = ["Hello", ",", " wor", "", "ld", "!", " 你好", "世", "。", "x"]
    times = [(float(i), float(i + 1)) for i in range(len(texts))]
    assert words_of(texts, times) == [
        Word("Hello,", 0, 1),
        Word("world!", 2, 5),
        Word("你好", 6, 7),
        Word("世。", 7, 8),
        Word("x", 9, 10),
    ]
    assert words_of([], []) == [] and words_of([" ", "..."], [(0, 1), (1, 2)]) == [Word("...", 1, 2)]


@pytest.mark.parametrize(
    ("before", "after", "joint"), [("", "a", ""), ("a.", "B", " "), ("a ", "b", ""), ("好", "你", ""), ("好", "a", " ")]
)
def test_what_stands_between_pieces(before: str, after: str, joint: str) -> None:
    assert joint_of(before, after) == joint
