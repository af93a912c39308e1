"""Many pieces told as one speech: by a stand-in for the engine, and by the small model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omni import AudioChunk, Done, Event, Omni, TextDelta, Timings, Usage
from omni.errors import CapacityError, EngineError, MessageError
from omni.events import Failed, Limit
from omni.loading.checkpoint import BUNDLED
from omni.script.narration import PAUSES, SLOWEST_CHAR, Narration, Script
from omni.script.wording import Wording
from tests.omni.script.long_speech import listen, sentences, show

FRAME = 10
RATES = (50.0, 50 * FRAME)
SHORT = Wording(longest=40, sentences=1)


@dataclass(eq=False)
class Asked:
    """Stands in for a request."""

    words: str
    seed: int
    longest: float
    key: int
    speech: Any = field(default_factory=lambda: SimpleNamespace(ended=False, track=SimpleNamespace(frames=[])))
    limits: set[Limit] = field(default_factory=set)
    ids: list[int] = field(default_factory=lambda: [7, 8])

    def sound(self, num: int) -> AudioChunk:
        self.speech.track.frames += [(self.key,)] * num
        return AudioChunk(np.full(num * FRAME, self.key, np.float32), RATES[1], 0)

    def end(self, *limits: Limit, reason: Any = None) -> Done:
        self.speech.ended = True
        self.limits |= set(limits)
        codes = tuple(code for frame in self.speech.track.frames for code in frame)
        usage = Usage(5, 0, 0, 0, len(self.ids), len(codes))
        return Done(
            reason or ("length" if limits else "stop"), limits, self.seed, usage, TIMES, tuple(self.ids), codes, ("lost",)
        )

    def outcome(self) -> Done:
        return self.end()

    def elapsed(self) -> float:
        return 9.0


TIMES = Timings(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


class Told:
    """A narration, what was asked of its engine, and what its listener was told."""

    def __init__(self, text: str, *, wording: Wording = SHORT, max_seconds: float | None = None, ended: bool = True) -> None:
        self.asked, keys = list[Asked](), count(1)

        def make(words: str, seed: int, longest: float) -> Any:
            self.asked.append(Asked(words, seed, longest, next(keys)))
            return self.asked[-1]

        self.script = Script(wording)
        self.script.write(text)
        if ended:
            self.script.end()
        self.narration = Narration(self.script, make, seed=11, max_seconds=max_seconds, rates=RATES)
        self.events = list[Event]()
        self.run()

    def run(self) -> None:
        while self.narration.next_request():
            self.narration.submitted()

    def take(self, asked: Asked, event: Event | Failed) -> None:
        self.events += self.narration.take(asked.key, event)
        self.run()

    def say(self, asked: Asked, num: int = 30, *limits: Limit) -> None:
        self.take(asked, asked.sound(num))
        self.take(asked, asked.end(*limits))

    def end(self) -> Done:
        self.events += self.narration.end()
        done = self.events[-1]
        assert isinstance(done, Done)
        return done

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def sound(self) -> list[int]:
        """Whose sound is heard, frame by frame; each chunk goes on where the one before ended."""
        heard = [event for event in self.events if isinstance(event, AudioChunk)]
        at = 0
        for chunk in heard:
            assert chunk.start == at
            at += len(chunk.samples)
        return [int(x) for chunk in heard for x in chunk.samples[::FRAME]]


TEXT = " Hello, you.\n...\nSee the star. \n Go! "


def test_pieces_follow_each_other_and_end_as_one() -> None:
    told = Told(TEXT)
    for i in range(3):
        told.say(told.asked[i], 20 + i)
    assert told.narration.over
    done = told.end()
    assert [asked.words for asked in told.asked] == ["Hello, you.", "See the star.", "Go!"]
    assert told.text == TEXT
    assert told.sound == [1] * 20 + [2] * 21 + [3] * 22
    assert (done.finish_reason, done.limits, done.seed, done.warnings) == ("stop", (), 11, ("lost",))
    assert (done.usage.prompt_tokens, done.usage.text_tokens, done.usage.codec_tokens) == (5, 6, 63)
    assert (done.token_ids, done.codes) == ((7, 8) * 3, (1,) * 20 + (2,) * 21 + (3,) * 22)
    assert (done.timings.first_audio, done.timings.total, done.timings.audio) == (0.4, 9.0, 63 / 50)
    assert sum(isinstance(event, Done) for event in told.events) == 1


def test_the_next_piece_is_made_once_the_codes_of_the_one_before_are_known_and_told_in_its_turn() -> None:
    told = Told("Hello. You. Go.")
    first = told.asked[0]
    told.take(first, first.sound(10))
    assert len(told.asked) == 1
    first.speech.ended = True
    told.take(first, first.sound(10))
    assert len(told.asked) == 2
    told.say(told.asked[1], 15)
    assert told.sound == [1] * 20 and told.text == "Hello. "
    told.take(first, first.end())
    assert told.sound == [1] * 20 + [2] * 15 and told.text == "Hello. You. "


def test_a_later_piece_is_held_until_its_codes_are_known() -> None:
    told = Told("Hello. You.")
    told.say(told.asked[0])
    second = told.asked[1]
    told.take(second, second.sound(10))
    assert 2 not in told.sound
    second.speech.ended = True
    told.take(second, second.sound(10))
    assert told.sound.count(2) == 20


LIMIT: tuple[Limit, ...] = ("audio",)


@pytest.mark.parametrize(("num", "limits", "says"), [(900, LIMIT, "ran astray"), (5, (), "too early")])
@pytest.mark.parametrize("mended", [True, False])
def test_a_piece_that_goes_wrong_is_made_once_more_and_told(num: int, limits: Any, says: str, mended: bool) -> None:
    told = Told("Hello. Here is the blue star. Go.")
    told.say(told.asked[0])
    bad = told.asked[1]
    told.say(bad, num, *limits)
    again = told.asked[2]
    assert (again.words, again.longest) == (bad.words, bad.longest) and again.seed != bad.seed
    assert [*map(id, told.narration.dropped())] == [id(bad)]
    assert not told.narration.dropped()
    told.take(bad, bad.sound(3))  # what comes late of it is not told
    told.say(again, *((60,) if mended else (num, *limits)))
    told.say(told.asked[3])
    done = told.end()
    assert told.sound == [1] * 30 + [3] * (60 if mended else num) + [4] * 30
    assert [says in warning for warning in done.warnings] == ([False] if mended else [False, True])
    assert done.finish_reason == ("length" if limits and not mended else "stop")
    assert Told("Hello. Here is the blue star. Go.").asked[0].seed == 11


def test_the_first_piece_is_told_as_it_is_made_and_only_told_of_when_it_goes_wrong() -> None:
    told = Told("Here is the blue star.")
    told.say(told.asked[0], 5)
    assert told.sound == [1] * 5 and len(told.asked) == 1
    assert "too early" in told.end().warnings[1]


def test_a_piece_may_last_as_long_as_its_text_needs_and_all_as_long_as_asked() -> None:
    assert Told("Go.").asked[0].longest == PAUSES + 3 * SLOWEST_CHAR
    told = Told("Hello. You. Go.", max_seconds=1.0)
    for asked in (told.asked[0], *told.asked[1:2]):
        told.say(asked)
    told.say(told.asked[1])
    assert told.narration.over
    done = told.end()
    assert len(told.sound) == 50 and told.sound[-1] == 2
    assert (done.finish_reason, done.limits, len(done.codes)) == ("length", ("audio",), 50)


def test_an_interruption_ends_all() -> None:
    told = Told("Hello. You.")
    told.take(told.asked[0], told.asked[0].sound(10))
    told.narration.interrupted = True
    told.take(told.asked[0], told.asked[0].sound(10))
    assert told.narration.over and told.narration.next_request() is None
    done = told.end()
    assert done.finish_reason == "interrupted" and told.sound == [1] * 10


def test_a_fault_is_raised() -> None:
    told = Told("Hello.")
    with pytest.raises(EngineError):
        told.take(told.asked[0], Failed(EngineError("broken")))


def wants(told: Told) -> bool:
    return told.narration.wants_text


def test_text_is_asked_for_when_it_can_be_used() -> None:
    told = Told("Hello. Yo", ended=False)
    assert [asked.words for asked in told.asked] == ["Hello."]
    assert not wants(told)
    told.asked[0].speech.ended = True
    told.take(told.asked[0], told.asked[0].sound(30))
    assert wants(told)
    told.script.write("u. ")
    assert wants(told) and not told.narration.over
    told.script.end()
    told.run()
    assert not told.narration.wants_text and told.asked[1].words == "You."


def test_sentences_that_are_there_are_spoken_at_once_as_far_as_the_voice_was_taught() -> None:
    many = Wording(longest=20, sentences=9)
    told = Told("One.\nTwo. 三。四。 This is longer. No.", wording=many)
    for i in range(2):
        told.say(told.asked[i])
    assert [asked.words for asked in told.asked] == ["One.\nTwo. 三。四。", "This is longer. No."]


def test_what_cannot_be_said_is_named() -> None:
    few = Wording.read(BUNDLED)
    script = Script(few)
    script.write("I see an elephant. An ele")
    script.write("phant 🙂. \ud83d")
    script.write("\ude00 Yes.")
    script.end()
    assert script.spoken.missing == ("elephant", "🙂", "😀")
    (warning,) = script.warnings
    assert warning.count("elephant") == 1
    with pytest.raises(MessageError, match=r"elephant.*strict"):
        Script(few, strict=True).write("An elephant. A")
    for nothing in ("", " \n", "...", "🙂"):
        empty = Script(few)
        empty.write(nothing)
        with pytest.raises(MessageError, match="no text to say"):
            empty.end()


def test_words_that_numbers_became_are_spoken_in_parts() -> None:
    few = Wording.read(BUNDLED)
    told = Told(f"It is {'7' * 30}.", wording=few)
    for i in range(4):
        told.say(told.asked[i], 90)
    assert told.narration.over and told.text == f"It is {'7' * 30}."
    assert " ".join(asked.words for asked in told.asked).lower().count("seven") == 30
    assert max(len(asked.words) for asked in told.asked) <= few.longest + 1


# ---- the engine


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(progress=False)


def test_every_sentence_is_spoken_and_heard(omni: Omni) -> None:
    texts = sentences(3)
    heard = listen(omni, texts)
    assert [text.strip() for text, _ in heard.sentences] == texts
    assert heard.words >= 0.8
    assert heard.gap < 0.5 and heard.step < 0.02
    assert omni.engine._num_open == 0


def test_the_server_is_full_between_two_pieces(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, refused = omni.engine.submit, list[bool]()

    def full(requests: Any, outbox: Any) -> None:
        if len(omni.engine._live) and not refused:
            refused.append(True)
            raise CapacityError("full")
        submit(requests, outbox)

    monkeypatch.setattr(omni.engine, "submit", full)
    events = list(omni.say("Yes. No.", seed=1))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Yes. No."
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "stop"


def test_leaving_in_the_middle_frees_the_engine(omni: Omni) -> None:
    events = omni.say("I see a red circle. " * 20, seed=1)
    assert any(isinstance(event, AudioChunk) for event in (next(events), next(events)))
    events.close()
    assert omni.engine._num_open == 0


@pytest.mark.slow
def test_two_hundred_sentences_are_spoken_and_heard(omni: Omni) -> None:
    """As well as each would be alone, with memory that does not grow."""
    assert show(omni, sentences(200))
