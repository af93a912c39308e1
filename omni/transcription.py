"""Recordings of any length written down: cut at silences, pieces transcribed side by side and told in order."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from omni.encoders.mel import log_mel
from omni.encoders.speech import RATE, Cutting, Gap, Part, Piece, parts
from omni.encoders.waves import AudioSource, Wave
from omni.engine.align import heard_rows
from omni.engine.options import OptionArgs, Options
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.engine.think import ThinkStage
from omni.errors import CapacityError, MediaError
from omni.events import Done, Failed, Heard, Segment, TextDelta, TokenLogprob, Transcript, Usage, Word
from omni.prompt.reader import Known, Message
from omni.prompt.tokenizer import StreamDecoder
from omni.runtime import Runtime

TOGETHER = 8
"""Pieces that are transcribed at once."""
TOKENS, TOKENS_A_SECOND = 64, 30
"""The longest text of a piece: more than anybody says, so that a model that goes on and on is stopped."""
EDGE = 0.1
"""Seconds by which a word may begin before its voice was noticed, or end behind it."""
NO_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""What Unicode's names of letters begin with in scripts that put no spaces between words: each is timed by itself."""


@dataclass
class _Said:
    """A piece on its way."""

    piece: Piece
    request: Request
    events: deque[TextDelta | Done] = field(default_factory=deque)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    looks: tuple[list[Tensor], list[Tensor]] | None = None

    def look(self, stage: ThinkStage) -> None:
        """Keep what tells when its words were heard; called by the engine before all else of the piece is gone."""
        if self.request.ids:
            self.looks = stage.looks(self.request)


class Transcriber:
    """One recording while it is written down.

    Args:
        words: tell when each was said.
        options: of every piece's text.
        warnings: what was lost of the recording before.
    """

    def __init__(
        self,
        runtime: Runtime,
        wave: Wave,
        cutting: Cutting,
        instruction: str,
        options: Options,
        *,
        words: bool,
        warnings: Sequence[str] = (),
    ) -> None:
        self._runtime, self._wave, self._instruction, self._options, self._words = runtime, wave, instruction, options, words
        self._parts: Iterator[Part | None] | None = parts(wave, cutting)
        self._said: deque[_Said] = deque()  # in the recording's order
        self._outbox, self._closing, self._closed = Outbox(), threading.Lock(), False
        self._next: _Said | None = None  # for which the engine had no room
        self._segments: list[Segment] = []
        self._usage = Usage(0, 0, 0, 0, 0, 0)
        self._gaps: list[Gap] = []
        self._text = ""
        self._warnings = list(warnings)

    def run(self) -> Generator[Heard, None, None]:
        """TextDelta as words are found, Segment as pieces end, then one Transcript; closing it ends all."""
        try:
            while self._feeds or self._said:
                if self._feeds and not self._outbox.num_waiting:
                    self._feed()
                else:
                    yield from self._take(*self._outbox.get())
            yield self._transcript()
        finally:
            self._close()

    async def arun(self) -> AsyncGenerator[Heard, None]:
        """As `run`, for an event loop."""
        try:
            while self._feeds or self._said:
                if self._feeds and not self._outbox.num_waiting:
                    await asyncio.to_thread(self._feed)
                else:
                    for event in self._take(*await self._outbox.aget()):
                        yield event
            yield self._transcript()
        finally:
            self._close()

    @property
    def _feeds(self) -> bool:
        if self._parts is None or len(self._said) >= TOGETHER:
            return False
        return not (self._next and self._said)

    def _feed(self) -> None:
        """Look a little further for the next piece, and begin to transcribe it."""
        assert self._parts
        if self._next:
            self._submit(self._next)
            return
        try:
            part = next(self._parts)
        except StopIteration:
            self._parts = None
            return
        match part:
            case Gap():
                self._gaps.append(part)
            case Piece():
                self._submit(self._said_in(part))

    def _submit(self, said: _Said) -> None:
        self._next = None
        with self._closing:
            if self._closed:
                return
            try:
                self._runtime.engine.submit([said.request], self._outbox)
            except CapacityError:
                if not self._said:
                    raise
                self._next = said  # once another piece has ended
            else:
                self._said.append(said)

    def _said_in(self, piece: Piece) -> _Said:
        reader = self._runtime.reader
        assert reader.mel and reader.ears
        sound: Message = {"type": "audio"}
        shown = log_mel(self._wave[piece.first : piece.last], reader.mel, reader.ears.block_frames)
        # told as read before: a long recording would push all else out of the reader's memory
        known: Known = {id(sound): (sound, (shown,))}
        content = [sound, {"type": "text", "text": self._instruction}]
        most = TOKENS + round(TOKENS_A_SECOND * (piece.last - piece.first) / RATE)
        options = replace(self._options, max_tokens=min(most, self._options.max_tokens))
        said = _Said(piece, self._runtime.request([{"role": "user", "content": content}], None, options, known=known))
        if self._words:
            said.request.then = lambda: said.look(self._runtime.think)
        return said

    def _take(self, key: int, event: object) -> Iterator[TextDelta | Segment]:
        """What can be told once this has come."""
        said = next(said for said in self._said if said.request.key == key)
        if isinstance(event, Failed):
            raise event.error
        assert isinstance(event, TextDelta | Done)
        said.events.append(event)
        while self._said and self._said[0].events:
            yield from self._tell(self._said[0])

    def _tell(self, said: _Said) -> Iterator[TextDelta | Segment]:
        """What the first piece has to tell: those behind it wait."""
        event = said.events.popleft()
        if isinstance(event, Done):
            self._said.popleft()
            self._segments.append(self._segment(said, event))
            yield self._segments[-1]
            return
        said.logprobs += event.logprobs
        if text := event.text if said.text else event.text.lstrip():
            joint = "" if said.text else joint_of(self._text, text)
            said.text += text
            self._text += joint + text
            yield TextDelta(joint + text, event.logprobs)

    def _segment(self, said: _Said, done: Done) -> Segment:
        piece, start, end = said.piece, said.piece.start / RATE, said.piece.end / RATE
        self._usage = self._usage + done.usage
        if done.limits:
            self._warnings.append(
                f"what was said from {start:.1f} to {end:.1f} s was cut off by the {done.limits[0]} limit; cut the "
                "recording there, or see whether the model goes round in circles"
            )
        self._warnings += done.warnings
        return Segment(
            said.text.strip(),
            start,
            end,
            self._timed(said, done.token_ids) if self._words else None,
            done.token_ids,
            tuple(said.logprobs),
            round(1 - piece.voice, 4),
            done.limits,
        )

    def _timed(self, said: _Said, ids: Sequence[int]) -> tuple[Word, ...]:
        """The words of a piece; none where its sound is shorter than its text."""
        if said.looks is None:
            return ()
        piece, decoder = said.piece, StreamDecoder(self._runtime.reader.tokenizer)
        state = decoder.start()
        texts = [decoder.step(state, [token]) for token in ids]
        row = (piece.last - piece.first) / RATE / len(said.looks[1][0])  # seconds
        least, most = max(0.0, piece.start / RATE - EDGE), piece.end / RATE + EDGE

        def at(rows: int) -> float:
            return round(min(max(piece.first / RATE + rows * row, least), most), 3)

        times = [(at(first), at(last)) for first, last in heard_rows(*said.looks)]
        return tuple(words_of(texts, times))

    def _transcript(self) -> Transcript:
        if self._gaps:
            where = ", ".join(f"{gap.start / RATE:.1f}-{gap.end / RATE:.1f} s" for gap in self._gaps)
            self._warnings.append(f"nothing was written down at {where}: there is sound, and no voice in it")
        elif not self._segments:
            self._warnings.append("no voice is heard in the recording, so nothing was written down")
        seconds, warnings = len(self._wave) / RATE, tuple(dict.fromkeys(self._warnings))
        return Transcript(self._text.strip(), tuple(self._segments), seconds, self._usage, warnings)

    def _close(self) -> None:
        with self._closing:
            self._closed = True
            self._runtime.engine.cancel([said.request for said in self._said], wait=False)


def joint_of(before: str, after: str) -> str:
    """What stands between two pieces of text."""
    if not before or before[-1].isspace() or (_stands_alone(before[-1]) and _stands_alone(after[0])):
        return ""
    return " "


def words_of(texts: Sequence[str], times: Sequence[tuple[float, float]]) -> list[Word]:
    """Words of the texts of tokens, each heard in its time; a pause behind a word, where a mark stands, is not its own."""
    words: list[Word] = []
    began: float | None = None  # a character that several tokens make up
    for text, (start, end) in zip(texts, times, strict=False):
        if not text:
            began = start if began is None else began
            continue
        start, began = start if began is None else began, None
        before = words[-1] if words else None
        if before is None or text[0].isspace() or before.text[-1].isspace() or _begins_word(before.text, text[0]):
            words.append(Word(text, start, end))
        else:
            words[-1] = Word(before.text + text, before.start, end if any(map(str.isalnum, text)) else before.end)
    return [replace(word, text=text) for word in words if (text := word.text.strip())]


def _begins_word(before: str, letter: str) -> bool:
    last = next((each for each in reversed(before) if each.isalnum()), "")
    return letter.isalnum() and (_stands_alone(letter) or _stands_alone(last))


def _stands_alone(letter: str) -> bool:
    """Whether no spaces stand around such a letter's words."""
    return bool(letter) and unicodedata.name(letter, "").startswith(NO_SPACES)


def transcriber(
    runtime: Runtime,
    source: AudioSource,
    *,
    words: bool,
    instruction: str | None,
    cutting: Cutting | None,
    options: OptionArgs,
) -> Transcriber:
    """A recording that is ready to be written down; arguments and errors as of `Omni.transcribe`."""
    reader, warnings = runtime.reader, list[str]()
    if reader.mel is None:
        raise MediaError("this model does not hear; take a model with ears")
    assert reader.mel.sampling_rate == RATE, "the detector of voices hears what the ears hear"
    asked: OptionArgs = {"temperature": 0.0, "logprobs": 0, **options}
    wave = reader.decoder.sound(source, RATE, reader.budget, warnings.append)
    told = runtime.dictation.instruction if instruction is None else instruction
    return Transcriber(runtime, wave, cutting or cutting_of(runtime), told, Options(**asked), words=words, warnings=warnings)


def cutting_of(runtime: Runtime) -> Cutting:
    """How the model's checkpoint wants recordings to be cut."""
    return Cutting(runtime.dictation.longest, runtime.dictation.silence)
