"""A text on its way to sound: cut into pieces, each an answer of its own to the same prompt, and told as one.

It holds no thread and no event loop: text is given, requests are asked for, what the engine tells of them is taken in, and
what the listener is told comes out. While a piece is told the next one is made.

The first piece is told as it is made. Of later ones the sound is held until all their codes are known, which is while the
piece before is heard: one that ran astray, or that was over before its words can have been said, is made once more with
another seed. Only what was made decides that, never when, so that the same seed gives the same sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import get_args

from omni.engine.request import Request
from omni.errors import MessageError
from omni.events import AudioChunk, Done, Event, Failed, FinishReason, Limit, TextDelta
from omni.script.sentences import SentenceCutter
from omni.script.wording import Spoken, Wording

AHEAD = 2
"""Pieces that are made at once: the one that is told, and the next."""
PAUSES, SLOWEST_CHAR = 10.0, 0.5
"""Seconds that no voice needs for a piece, and for each character of it, spelled digits and Chinese included."""
QUICKEST_CHAR = 0.025
"""Seconds in which no voice says a letter."""
BYTES = 4
"""Of a character in UTF-8, at most."""
STEP = 0x9E3779B97F4A7C15
SEEDS = 2**62
NOTHING = "there is no text to say; give at least one word"


@dataclass(frozen=True)
class Piece:
    """What is spoken at once: as it was written, and the words that the voice is given, none where it is silent."""

    text: str
    words: str


@dataclass(eq=False)
class Part:
    """A piece that is being spoken.

    Attributes:
        request: of the engine.
        again: it is made for the second time.
        fine: what is known of it needs no second time; its sound may be told.
        held: sound that was not told yet.
        start: its first sample in all that was told; None before.
    """

    index: int
    piece: Piece
    request: Request
    longest: float
    again: bool = False
    fine: bool = False
    held: list[AudioChunk] = field(default_factory=list)
    done: Done | None = None
    start: int | None = None


class Script:
    """A text as it is cut into pieces, and what was found that cannot be said.

    Args:
        strict: that is an error.
    """

    def __init__(self, wording: Wording, *, strict: bool = False) -> None:
        self._wording, self._strict = wording, strict
        self._cutter = SentenceCutter(wording.longest)
        self._state = self._cutter.start()
        self._sentences: deque[tuple[str, Spoken]] = deque()
        self._missing: dict[str, str] = {}
        self._half = ""
        self.ended = False
        self.has_words = False

    def write(self, text: str) -> None:
        """More of it; MessageError where it cannot be said and should."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        self._cut(self._cutter.step(self._state, _whole(text)))

    def end(self) -> None:
        """That was all; MessageError where there was nothing to say in it."""
        rest = self._cutter.step(self._state, _whole(self._half))
        self._cut([*rest, *self._cutter.finish(self._state)])
        self.ended = True
        if not self.has_words:
            raise MessageError("; ".join((NOTHING, *self.warnings)))

    def _cut(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            spoken = self._wording.spoken(sentence)
            self._missing |= {word.casefold(): word for word in spoken.missing if word.casefold() not in self._missing}
            self.has_words |= bool(spoken.text)
            parts = self._fitting(spoken.text)
            self._sentences.append((sentence, replace(spoken, text=parts[0] if parts else "")))
            self._sentences += (("", Spoken(part)) for part in parts[1:])
        if self._strict and self._missing:
            raise MessageError(f"{'; '.join(self.warnings)}; write it in other words, or leave strict out")

    def _fitting(self, words: str) -> list[str]:
        """Words that became many, such as those of long numbers, in parts that the voice can speak at once."""
        if self._wording.words is None or len(words) <= self._wording.longest:
            return [words]
        state = self._cutter.start()
        parts = self._cutter.step(state, words) + self._cutter.finish(state)
        return [said for part in parts if (said := self._wording.spoken(part).text)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a listener should be told of the text so far."""
        return Spoken("", tuple(self._missing.values())).warnings

    @property
    def spoken(self) -> Spoken:
        """Of all sentences that are there."""
        words = " ".join(spoken.text for _, spoken in self._sentences if spoken.text)
        return Spoken(words, tuple(self._missing.values()))

    @property
    def longest(self) -> int:
        """Tokens that no piece of it exceeds."""
        num_bytes = sum(len(spoken.text.encode()) for _, spoken in self._sentences)
        return min(num_bytes, BYTES * self._wording.longest)

    @property
    def is_empty(self) -> bool:
        """Whether no piece is ready."""
        return not self._sentences

    def next(self) -> Piece:
        """As many sentences as are there and can be spoken at once, at least one."""
        text, spoken = self._sentences.popleft()
        words, num = spoken.text, 1
        while self._sentences and num < self._wording.sentences:
            more, spoken = self._sentences[0]
            gap = "\n" if text.rstrip(" \t")[-1:].isspace() else " " if text[-1:].isspace() else ""
            longer = f"{words}{gap}{spoken.text}".strip() if spoken.text else words
            if len(longer) > self._wording.longest:
                break
            self._sentences.popleft()
            text, words, num = text + more, longer, num + 1
        return Piece(text, words)


class Narration:
    """A script that is being spoken.

    Args:
        make: a request for words, of a seed and at most so many seconds of sound.
        seed: gives the same sound again, together with the pieces that the text came in.
        max_seconds: of all sound; None for as long as it takes.
        rates: frames and samples in a second; None for a text that is only written.

    Attributes:
        parts: that are being made, in order.
        kept: those that have been told, where somebody put a list here.
    """

    def __init__(
        self,
        script: Script,
        make: Callable[[str, int, float], Request],
        *,
        seed: int,
        max_seconds: float | None,
        rates: tuple[float, int] | None,
    ) -> None:
        self.script, self._make, self._seed, self._max_seconds, self._rates = script, make, seed, max_seconds, rates
        self._most = (
            None
            if max_seconds is None or rates is None
            else max(1, round(max_seconds * rates[0])) * round(rates[1] / rates[0])
        )
        self.parts: deque[Part] = deque()
        self.kept: list[Part] | None = None
        self._due: deque[Part] = deque()
        self._dropped: list[Request] = []
        self._num_pieces = self._num_samples = 0
        self._first: Request | None = None
        self._silent = ""
        self._ids: list[int] = []
        self._codes: list[int] = []
        self._limits: set[Limit] = set()
        self._warnings: dict[str, None] = {}
        self._prompt_warnings: tuple[str, ...] = ()
        self.interrupted = self._cut = False

    # ---- what the driver asks

    def next_request(self) -> Request | None:
        """A request to run beside those that run already; None for now."""
        if self.over:
            return None
        while not self._due and self._has_place and not self.script.is_empty:
            self._open(self.script.next())
        return self._due[0].request if self._due else None

    def submitted(self) -> None:
        """The request asked for last runs."""
        self._due.popleft()

    def has_others_than(self, request: Request) -> bool:
        """Whether anything else of this narration runs."""
        return any(part.request is not request and part.done is None for part in self.parts)

    def dropped(self) -> list[Request]:
        """Requests that are not needed any more."""
        out, self._dropped = self._dropped, []
        return out

    @property
    def wants_text(self) -> bool:
        """Whether more text could be put to use now."""
        return not self.over and not self.script.ended and self.script.is_empty and self._has_place

    @property
    def requests(self) -> list[Request]:
        """All that may run."""
        return [*(part.request for part in self.parts), *self._dropped]

    @property
    def over(self) -> bool:
        """Whether nothing more is to be told but the end."""
        if self.interrupted or self._cut:
            return True
        return self.script.ended and self.script.is_empty and not self.parts

    @property
    def _has_place(self) -> bool:
        """Whether another piece may be made: once all codes of the one before are known, so as not to hold them up."""
        return not self.parts or (len(self.parts) < AHEAD and _is_found(self.parts[-1]))

    def _open(self, piece: Piece) -> None:
        if not piece.words:
            self._silent += piece.text
            return
        piece, self._silent = replace(piece, text=self._silent + piece.text), ""
        longest = PAUSES + SLOWEST_CHAR * len(piece.words)
        if self._max_seconds is not None:
            longest = min(longest, self._max_seconds)
        part = Part(self._num_pieces, piece, self._request(piece, self._num_pieces, False, longest), longest)
        part.fine = part.index == 0 or self._rates is None
        self._num_pieces += 1
        self._first = self._first or part.request
        self.parts.append(part)
        self._due.append(part)

    def _request(self, piece: Piece, index: int, again: bool, longest: float) -> Request:
        return self._make(piece.words, (self._seed + (2 * index + again) * STEP) % SEEDS, longest)

    # ---- what the engine tells

    def take(self, key: int, event: Event | Failed) -> list[Event]:
        """What the listener is told because of an event of one of the requests; raises what ended it."""
        part = next((part for part in self.parts if part.request.key == key), None)
        if part is None or self.over:
            return []
        match event:
            case Failed():
                raise event.error
            case AudioChunk():
                part.held.append(event)
            case Done():
                part.done = event
                self.interrupted |= event.finish_reason == "interrupted"
        for each in self.parts:
            self._judge(each)
        return self._tell()

    def _judge(self, part: Part) -> None:
        """Once all codes of a piece are known: whether it is fine, or has to be made once more."""
        if part.fine or not _is_found(part):
            return
        if part.again or not self._fault(part):
            part.fine = True
            return
        self._dropped.append(part.request)
        part.request = self._request(part.piece, part.index, True, part.longest)
        part.again, part.done, part.held = True, None, []
        self._due.append(part)

    def _fault(self, part: Part) -> str:
        """What is wrong with a piece whose codes are known; nothing where it is fine."""
        speech = part.request.speech
        if speech is None or self._rates is None:
            return ""
        seconds = len(speech.track.frames) / self._rates[0]
        if "audio" in part.request.limits and part.longest != self._max_seconds:
            return f"the voice ran astray after {seconds:.1f} s"
        if not part.request.limits and seconds < QUICKEST_CHAR * sum(sign.isalnum() for sign in part.piece.words):
            return f"the voice ended after {seconds:.1f} s, too early for all words"
        return ""

    def _tell(self) -> list[Event]:
        out: list[Event] = []
        while self.parts and self.parts[0].fine:
            part = self.parts[0]
            if part.start is None:
                part.start = self._num_samples
                out.append(TextDelta(part.piece.text))
            for chunk in part.held:
                out += self._sound(chunk)
            part.held = []
            if part.done is None or self._cut:
                break
            self._end(part, part.done)
            self.parts.popleft()
        return out

    def _sound(self, chunk: AudioChunk) -> list[Event]:
        """A chunk in its place among all, as far as so much sound may be made."""
        left = len(chunk.samples) if self._most is None else self._most - self._num_samples
        samples = chunk.samples[: max(0, left)]
        if left < len(chunk.samples):
            self._cut = True
            self._limits.add("audio")
        start, self._num_samples = self._num_samples, self._num_samples + len(samples)
        return [AudioChunk(samples, chunk.sample_rate, start)] if len(samples) else []

    def _end(self, part: Part, done: Done) -> None:
        self._ids += done.token_ids
        self._codes += done.codes
        self._limits |= set(done.limits)
        self._prompt_warnings = done.warnings
        if fault := self._fault(part):
            self._warnings[f"{fault}: {part.piece.text.strip()!r}"] = None
        if self.kept is not None:
            self.kept.append(part)

    def end(self) -> list[Event]:
        """What the listener is told last."""
        silent = [TextDelta(self._silent)] if self._silent and not (self.interrupted or self._cut) else []
        part = self.parts[0] if self.parts else None
        if part and part.start is not None:  # it was broken off
            self._ids += part.request.ids
            if part.request.speech and self._rates:
                num = round((self._num_samples - part.start) * self._rates[0] / self._rates[1])
                told = part.request.speech.track.frames[: num if self._cut else None]
                self._codes += (code for frame in told for code in frame)
        return [*silent, self._outcome()]

    def _outcome(self) -> Done:
        first = self._first
        assert first, "a script has words"
        limits = tuple(limit for limit in get_args(Limit) if limit in self._limits)
        reason: FinishReason = "interrupted" if self.interrupted else "length" if limits else "stop"
        done = first.outcome()
        usage = replace(done.usage, text_tokens=len(self._ids), codec_tokens=len(self._codes))
        seconds = self._num_samples / self._rates[1] if self._rates else 0.0
        timings = replace(done.timings, total=first.elapsed(), audio=seconds)
        warnings = (*self._prompt_warnings, *self.script.warnings, *self._warnings)
        return Done(reason, limits, self._seed, usage, timings, tuple(self._ids), tuple(self._codes), warnings)


def _is_found(part: Part) -> bool:
    """Whether all codes of a piece are known."""
    speech = part.request.speech
    return bool(part.done or (speech and speech.ended))


def _whole(text: str) -> str:
    """Text in which halves of surrogate pairs, as JSON can carry them, are joined, or U+FFFD where the other is missing."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
