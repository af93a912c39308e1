"""A conversation over several turns, of which as much as possible is read before it is the model's turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.encoders.media import ImageSource, read_image
from omni.engine.align import Word
from omni.engine.options import Options
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.errors import ContextError, InputError, MediaError, MessageError, OmniError
from omni.events import Done, Event, Failed, TextDelta
from omni.prompt.reader import Message
from omni.runtime import Runtime

SETTLED = 0.05
"""Seconds of sound before the last that nothing yet to come changes (resampling, mel windows)."""
KEPT_TURNS = 2
"""Past turns whose pictures and clips are kept when others must go."""
SHOWN = "[a picture]"
PICTURES = ("image", "image_url", "video", "video_url")


@dataclass(eq=False)
class _Answer:
    """One answer.

    Attributes:
        turn: what is answered, at most one message; none where the model speaks unasked.
        before: what the session held of the turn before it ended.
        said: its text as far as it was told.
        words: when they were spoken, once somebody has asked.
    """

    turn: list[Message]
    request: Request
    voice: str | None
    before: tuple[list[dict[str, Any]], list[NDArray[np.float32]], int]
    num_past: int
    said: list[str] = field(default_factory=list)
    words: list[Word] | None = None
    interrupted: bool = False

    def note(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.said.append(event.text)


class Session:
    """Turns of user and model. Made by `Omni.session`.

    What the user says and shows is appended as it comes. Sound is encoded in the audio tower's blocks, and read by thinker
    and talker, as soon as a block is whole, so that little is left to read when the turn ends, however long it was; earlier
    turns are read once. It all lies in the engine's cache: where that runs out of room the past is read again, and nothing
    else changes. So a session's answers are those to its `messages`, however they came in.

    A conversation that outgrows the model's context, or the cache, goes on: pictures and clips of turns before the last two
    are forgotten first, then the older half of the turns; never what the system said at its beginning.

    Attributes:
        messages: all whole turns that are remembered.
        voice: speaks the answers; None for text alone.
        tools: functions that the model may call.
    """

    def __init__(self, runtime: Runtime, system: str | None, voice: str | None, options: Options) -> None:
        self._runtime, self.voice, self._options = runtime, voice, options
        self.tools: Sequence[Mapping[str, Any]] = ()
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._parts: list[dict[str, Any]] = []
        self._rate = 0
        self._sound: list[NDArray[np.float32]] = []
        self._num_ahead = 0
        self._reading: Outbox | None = None
        self._last: _Answer | None = None

    def begin(self, messages: Sequence[Message]) -> None:
        """Go on from these messages instead of what was said here; what was appended and not answered is dropped.

        Where the last message is the user's, the turn goes on from it; otherwise the next turn is empty yet. What the engine
        has read of them before is not read again. An answer that is being given ends.

        Args:
            messages: as `Omni.generate` takes them.
        """
        if self._last:
            self._runtime.engine.interrupt(self._last.request)
            self._last = None
        self._sound, self._num_ahead = [], 0
        self.messages, self._parts = [*messages], []
        if self.messages and self.messages[-1]["role"] == "user":
            content = self.messages.pop()["content"]
            self._parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]

    def append_text(self, text: str) -> None:
        """The user has written something."""
        self._end_sound()
        self._parts.append({"type": "text", "text": text})

    def append_image(self, image: ImageSource) -> None:
        """The user shows a picture: a path, bytes, a data URL, a PIL image or a uint8 array."""
        shown = read_image(image, budget=self._runtime.reader.budget)
        self._end_sound()
        self._parts.append({"type": "image", "image": shown})
        self._read_ahead(1.0)

    def append_frames(self, frames: Sequence[ImageSource], fps: float) -> None:
        """The user shows something that moves: frames in order, so many a second; each call is a clip of its own.

        frames: at least two, as `append_image` takes them; a camera's, a second or two at a time.
        """
        shown = [read_image(frame, budget=self._runtime.reader.budget) for frame in frames]
        self._end_sound()
        self._parts.append({"type": "video", "video": shown, "fps": fps})
        try:
            self._read_ahead(1.0)
        except InputError:
            self._parts.pop()
            raise

    def append_audio(self, samples: NDArray[np.float32], rate: int) -> None:
        """The user has said more: float32 `[S]` in -1..1, mono, at any rate, which stays the same within a sound."""
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise MediaError(f"samples of a live sound are float32 [S]; these are {samples.dtype} {list(samples.shape)}")
        if not np.isfinite(samples).all():
            raise MediaError("the sound has samples that are not finite (NaN or infinity); they cannot be heard")
        if self._sound and rate != self._rate:
            self._end_sound()
        self._rate = rate
        self._sound.append(samples)
        block = self._runtime.model.thinker.config.audio.chunk_frames * self._rate // 100
        have = sum(map(len, self._sound)) - round(SETTLED * rate)
        if have // block > self._num_ahead:
            self._num_ahead = have // block
            self._read_ahead(self._num_ahead * block / (have + round(SETTLED * rate)))

    def respond(self, **options: Any) -> Generator[Event, None, None]:
        """End the user's turn and answer it, with events as `Omni.stream` gives them.

        Closing the iterator cancels the answer; the conversation then goes on as if all text that was told had been said.

        Args:
            options: other than the session's, for this answer.

        Raises:
            InputError: the turn then is still to be answered.
        """
        answer = self._ask(options)
        return self._answers(answer)

    def say(self, text: str, **options: Any) -> Generator[Event, None, None]:
        """As `respond`, with exactly these words instead of the model's own, which it will remember as its own.

        Where nothing was appended it speaks unasked, after the messages that there are.
        """
        if not text.strip():
            raise MessageError("there is no text to say; give at least one word")
        return self._answers(self._ask(options, text))

    async def arespond(self, **options: Any) -> AsyncGenerator[Event, None]:
        """As `respond`, for an event loop."""
        answer = await asyncio.to_thread(self._ask, options)
        with self._giving(answer):
            async with aclosing(self._runtime.arun(answer.request)) as events:
                async for event in events:
                    answer.note(event)
                    yield event

    def _ask(self, options: dict[str, Any], text: str | None = None) -> _Answer:
        before = ([*self._parts], [*self._sound], self._num_ahead)
        self._end_sound()
        if not self._parts and not self.messages and text is None:
            raise MessageError("there is nothing to respond to; append text, a picture or sound first")
        turn = self._turn(self._parts)
        request = self._request(turn, replace(self._options, **options))
        if text is not None:
            self._runtime.give(request, text)
        self.settle()
        return _Answer(turn, request, self.voice, before, len(self.messages))

    def _answers(self, answer: _Answer) -> Generator[Event, None, None]:
        with self._giving(answer), closing(self._runtime.run(answer.request)) as events:
            for event in events:
                answer.note(event)
                yield event

    @contextmanager
    def _giving(self, answer: _Answer) -> Iterator[None]:
        asked = [part for message in answer.turn for part in message["content"]]
        self._last, self._parts = answer, self._parts[len(asked) :]
        try:
            yield
        except OmniError:  # the turn is still to be answered
            self._last, self._parts = None, [*asked, *self._parts]
            raise
        finally:
            if self._last is answer and not answer.interrupted:  # nor taken back
                self.messages += [*answer.turn, {"role": "assistant", "content": "".join(answer.said)}]

    def take_back(self) -> None:
        """The turn had not ended: drop the answer to it without a trace, and go on with the turn.

        What was appended since `respond` goes on where the turn was. MessageError where there is no answer to drop.
        """
        answer = self._last
        if answer is None or answer.interrupted:
            raise MessageError("there is no answer to take back; ask for one with respond()")
        self._last = None
        self._runtime.engine.interrupt(answer.request)
        del self.messages[answer.num_past :]
        parts, sound, num_ahead = answer.before
        new_parts, new_sound = self._parts, self._sound
        self._parts, self._sound, self._num_ahead = parts, sound, num_ahead
        if new_parts:
            self._end_sound()
            self._parts += new_parts
            self._num_ahead = 0
        self._sound += new_sound

    @staticmethod
    def _turn(parts: list[dict[str, Any]]) -> list[Message]:
        return [{"role": "user", "content": [*parts]}] if parts else []

    def _request(self, turn: list[Message], options: Options) -> Request:
        """A turn behind as much of the past as fits with its answer."""
        while True:
            try:
                request = self._runtime.request([*self.messages, *turn], self.voice, options, tools=self.tools)
                if self._runtime.engine.has_room_for(request, options.max_tokens) or not self._forget():
                    return request
            except ContextError:
                if not self._forget():
                    raise

    def _forget(self) -> bool:
        """Shorten the past: first what was shown in older turns, then the older half of the turns; whether it could.

        More goes than must, since all that is left has to be read again.
        """
        first = int(bool(self.messages) and self.messages[0]["role"] == "system")
        turns = [i for i, message in enumerate(self.messages) if i >= first and message["role"] == "user"]
        if len(turns) > KEPT_TURNS:
            old = self.messages[first : turns[-KEPT_TURNS]]
            bare = [_without_pictures(message) for message in old]
            if bare != old:
                self.messages[first : turns[-KEPT_TURNS]] = bare
                return True
        half = turns[-(-len(turns) // 2)] if len(turns) > 1 else len(self.messages)
        dropped = self.messages[first:half]
        del self.messages[first:half]
        return bool(dropped)

    def interrupt(self, played_ms: float) -> str:
        """Stop the answer that is being given, or was given last and still plays, where its listener heard it stop.

        The conversation goes on as if only the words had been said that were heard, a word being heard once half of it is.
        Without a voice all text that was told was heard. Until the next answer it may be told again, of another moment.

        Args:
            played_ms: of the answer's sound, until its player was stopped.

        Returns:
            What was heard, and now stands in `messages`.

        Raises:
            MessageError: there is no answer to interrupt.
        """
        if self._last is None:
            raise MessageError("there is no answer to interrupt; ask for one with respond()")
        answer, self._last.interrupted = self._last, True
        self._runtime.engine.interrupt(answer.request)
        if answer.voice is None:
            heard = "".join(answer.said)
        else:
            if answer.words is None:
                asked = [*self.messages[: answer.num_past], *answer.turn]
                answer.words = self._runtime.words(answer.request, asked, answer.voice)
            heard = "".join(word.text for word in answer.words if 500 * (word.start + word.end) <= played_ms)
        self.messages[answer.num_past :] = [*answer.turn, {"role": "assistant", "content": heard}]
        return heard

    def _end_sound(self) -> None:
        """What comes next does not go on with the sound before it."""
        if self._sound:
            self._parts.append(self._sound_part())
        self._sound, self._num_ahead = [], 0

    def _sound_part(self) -> dict[str, Any]:
        return {"type": "audio", "audio": (np.concatenate(self._sound), self._rate)}

    def _read_ahead(self, share: float) -> None:
        """Have the turn read so far, of its last medium the first share of the rows; not if that is still being done."""
        if self._reading:
            if not self._reading.num_waiting:
                return
            self.settle()
        parts = [*self._parts, self._sound_part()] if self._sound else self._parts
        request = self._request(self._turn(parts), self._options)
        prompt = request.prompt
        last = prompt.runs[-1]
        settled = int(share * (last.last - last.first)) - (last.last - last.first)
        page = self._runtime.engine.block_size
        num_pages = (int(prompt.is_media.nonzero()[-1]) + 1 + settled) // page
        if num_pages:
            request.prompt, request.prefill_only = prompt.head(num_pages * page), True
            request.block_keys = request.block_keys[:num_pages]
            self._reading = Outbox()
            self._runtime.engine.submit([request], self._reading)

    def settle(self) -> None:
        """Wait until what has come of the turn has been read as far as can be; `respond` does so itself."""
        while self._reading:
            # a fault in reading ahead is none of the turn: it will be read again
            if isinstance(self._reading.get()[1], (Done, Failed)):
                self._reading = None


def _without_pictures(message: Message) -> Message:
    if not isinstance(message["content"], list):
        return message
    parts = [{"type": "text", "text": SHOWN} if part["type"] in PICTURES else part for part in message["content"]]
    return {**message, "content": parts}
