"""A conversation over several turns, of which as much as possible is read before it is the model's turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from omni.encoders.features import Sound
from omni.encoders.live import LiveState
from omni.encoders.pictures import ImageSource
from omni.encoders.sources import tell_python
from omni.engine.options import Options
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.errors import ContextError, InputError, MediaError, MessageError, OmniError
from omni.events import Done, Event, Failed, TextDelta, Word
from omni.prompt.prompt import Prompt
from omni.prompt.reader import Known, Message
from omni.runtime import Runtime
from omni.script.narration import Narration

R = TypeVar("R", bound=Request | None)
AGAIN = 2
"""How often the blocks of a sound may be read again, on average, because a louder one changed them, while it goes on."""
KEPT_TURNS = 2
"""Past turns whose pictures and clips are kept when others must go."""
SHOWN = "[a picture]"
PICTURES = ("image", "image_url", "video", "video_url")


@dataclass(frozen=True)
class Forgotten:
    """What a session has let go, from the front on, but never a leading system message.

    Attributes:
        messages: so many are gone of all that it had in `messages` since `begin`, the system's not counted.
        pictures: of so many, counted likewise, at least the pictures and clips are gone.
    """

    messages: int = 0
    pictures: int = 0


@dataclass(eq=False)
class _Answer:
    """One answer.

    Attributes:
        turn: what is answered, at most one message; none where the model speaks unasked.
        request: to find the answer, or to say given words in the narration's parts.
        narration: of given words; None for an answer that the model finds itself.
        how: it was asked for, as `Runtime.request` takes it.
        said: its text as far as it was told.
        words: when they were spoken, once somebody has asked.
    """

    turn: list[Message]
    request: Request
    voice: str | None
    how: Mapping[str, Any]
    num_past: int
    narration: Narration | None = None
    said: list[str] = field(default_factory=list)
    words: list[Word] | None = None
    interrupted: bool = False

    def note(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.said.append(event.text)


@dataclass(eq=False)
class _Said:
    """A sound that the user is making, as far as it was read.

    Attributes:
        before: what stands before it; None until some of it has been read.
        blocks, block_keys: of the sound, and of all up to its end, when it was read last.
        num_again: blocks that were read again since a louder one changed them.
    """

    sound: LiveState
    before: Prompt | None = None
    blocks: list[Sound] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    num_again: int = 0


class Session:
    """Turns of user and model. Made by `Omni.session`.

    What the user says and shows is appended as it comes. Sound is encoded in the audio tower's blocks, and read by thinker
    and talker, as soon as a block is whole, so that little is left to read when the turn ends, however long it was; earlier
    turns are read once. It all lies in the engine's cache: where that runs out of room the past is read again, and nothing
    else changes. So a session's answers are those to its `messages`, however they came in.

    A conversation that outgrows the model's context, or the cache, goes on: pictures and clips of turns before the last two
    are forgotten first, then the older half of the turns; never what the system said at its beginning.

    What is appended costs as much work on the caller's thread as it is long, whatever came before it in its sound. Louder
    sound may change earlier one, since the model hears all against the loudest (`LogMel`): that is read again, in all at
    most AGAIN times; a sound that gets louder and louder then waits, until it is twice as long or the turn ends.

    Attributes:
        messages: all whole turns that are remembered. What they hold must not change; it is looked into once.
        forgotten: what is remembered no more.
        voice: speaks the answers; None for text alone.
        tools: functions that the model may call; must_call: True where an answer must call one, or the name of that one.
        template_args: switches of the checkpoint's chat template.
    """

    def __init__(
        self,
        runtime: Runtime,
        system: str | None,
        voice: str | None,
        options: Options,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self._runtime, self.voice, self._options, self.template_args = runtime, voice, options, template_args
        self.tools: Sequence[Mapping[str, Any]] = ()
        self.must_call: bool | str = False
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.forgotten = Forgotten()
        self._parts: list[dict[str, Any]] = []
        self._known: Known = {}
        self._said: _Said | None = None
        self._reading: Outbox | None = None
        self._last: _Answer | None = None

    def begin(self, messages: Sequence[Message]) -> None:
        """Go on from these messages instead of what was said here; what was appended and not answered is dropped.

        Where the last message is the user's, the turn goes on from it; otherwise the next turn is empty yet. What the engine
        has read of them before is not read again. An answer that is being given ends.

        Args:
            messages: as `Omni.generate` takes them; what they hold must not change.
        """
        if self._last:
            self._stop(self._last)
            self._last = None
        self._said, self._known, self.forgotten = None, {}, Forgotten()
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
        self._show({"type": "image", "image": self._picture(image)})

    def append_frames(self, frames: Sequence[ImageSource], fps: float) -> None:
        """The user shows something that moves: frames in order, so many a second; each call is a clip of its own.

        frames: at least two, as `append_image` takes them; a camera's, a second or two at a time.
        """
        shown = [self._picture(frame) for frame in frames]
        self._show({"type": "video", "video": shown, "fps": fps})

    def _picture(self, source: ImageSource) -> Image:
        reader = self._runtime.reader
        return reader.decoder.picture(source, reader.budget, tell_python)

    def _show(self, part: dict[str, Any]) -> None:
        self._runtime.reader.part(part, "what is shown", known=self._known)
        self._end_sound()
        self._parts.append(part)
        try:
            self._read_ahead()
        except InputError:
            self._parts.pop()
            raise

    def append_audio(self, samples: NDArray[np.float32], rate: int) -> None:
        """The user has said more: float32 `[S]` in -1..1, mono, at any rate; at another than before it is another sound.

        MediaError, MediaLimitError: nothing of it was taken.
        """
        live = self._runtime.reader.live
        said = self._said if self._said and self._said.sound.rate == rate else _Said(live.start(rate))
        live.step(said.sound, samples)
        if said is not self._said:
            self._end_sound()
            self._said = said
        if said.sound.num_blocks > len(said.blocks):
            self._read_ahead()

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
        self._end_sound()
        if not self._parts and not self.messages and text is None:
            raise MessageError("there is nothing to respond to; append text, a picture or sound first")
        turn, asked = self._turn(self._parts), replace(self._options, **options)
        if text is None:
            request = self._with_room(lambda: self._request(turn, asked), asked.max_tokens)
        else:
            script = self._runtime.script(text, voiced=self.voice is not None)
            request = self._with_room(lambda: self._request(turn, asked), script.longest)
        self.settle()
        answer = _Answer(turn, request, self.voice, self._how(), len(self.messages))
        if text is not None:
            answer.narration = self._runtime.narration(request, self.voice, script)
            answer.narration.kept = []
        return answer

    def _answers(self, answer: _Answer) -> Generator[Event, None, None]:
        narration = answer.narration
        run = self._runtime.narrate(narration) if narration else self._runtime.run(answer.request)
        with self._giving(answer), closing(run) as events:
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
            if self._last is answer and not answer.interrupted:
                self.messages += [*answer.turn, {"role": "assistant", "content": "".join(answer.said)}]

    @staticmethod
    def _turn(parts: list[dict[str, Any]]) -> list[Message]:
        return [{"role": "user", "content": [*parts]}] if parts else []

    def _request(self, turn: list[Message], options: Options) -> Request:
        return self._runtime.request([*self.messages, *turn], self.voice, options, **self._how(), must_call=self.must_call)

    def _with_room(self, make: Callable[[], R], num_tokens: int) -> R:
        """What is made behind as much of the past as fits with an answer of so many tokens."""
        while True:
            try:
                request = make()
                if request is None or self._runtime.engine.has_room_for(request, num_tokens) or not self._forget():
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
                self._let_go(self.forgotten.messages, self.forgotten.messages + len(bare))
                return True
        half = turns[-(-len(turns) // 2)] if len(turns) > 1 else len(self.messages)
        dropped = self.messages[first:half]
        del self.messages[first:half]
        self._let_go(self.forgotten.messages + len(dropped), self.forgotten.pictures)
        return bool(dropped)

    def _let_go(self, messages: int, pictures: int) -> None:
        """What was read has another past now, or holds what is needed no more."""
        self.forgotten, self._known = Forgotten(messages, max(messages, pictures)), {}
        if self._said:
            self._said = replace(self._said, before=None, blocks=[], block_keys=[])

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
        self._stop(answer)
        if answer.voice is None:
            heard = "".join(answer.said)
        else:
            if answer.words is None:
                answer.words = self._words(answer, answer.voice)
            heard = "".join(word.text for word in answer.words if 500 * (word.start + word.end) <= played_ms)
        self.messages[answer.num_past :] = [*answer.turn, {"role": "assistant", "content": heard}]
        return heard

    def _stop(self, answer: _Answer) -> None:
        if answer.narration:
            answer.narration.interrupted = True
        for request in answer.narration.requests if answer.narration else [answer.request]:
            self._runtime.engine.interrupt(request)

    def _words(self, answer: _Answer, voice: str) -> list[Word]:
        """When each word of an answer is said."""
        asked = [*self.messages[: answer.num_past], *answer.turn]
        if answer.narration is None:
            return self._runtime.words(answer.request, asked, voice, **answer.how)
        words: list[Word] = []
        begun = [part for part in (*(answer.narration.kept or ()), *answer.narration.parts) if part.start is not None]
        for part, after in zip_longest(begun, begun[1:]):
            begin = (part.start or 0) / self._runtime.sample_rate
            said = self._runtime.words(part.request, asked, voice, **answer.how)
            written = _as_written(part.piece.text, [word.text for word in said])
            words += (Word(text, begin + w.start, begin + w.end) for text, w in zip(written, said, strict=True))
            told, text = "".join(written), part.piece.text
            if after and text.startswith(told) and (rest := text[len(told) :]):  # marks and white space without a sound
                end = (after.start or 0) / self._runtime.sample_rate
                words.append(Word(rest, end, end))
        return words

    def _end_sound(self) -> None:
        """What comes next does not go on with the sound before it."""
        if self._said and self._said.sound.num_samples:
            sound = self._said.sound
            part = {"type": "audio", "audio": (sound.wave, sound.rate)}
            with suppress(MediaError):  # too short to be heard, as whoever reads the turn will be told
                self._known[id(part)] = part, (self._runtime.reader.live.finish(sound),)
            self._parts.append(part)
        self._said = None

    def _read_ahead(self) -> None:
        """Have what has come of the turn read, up to where it may still change; not if that is still being done."""
        if self._reading:
            if not self._reading.num_waiting:
                return
            self.settle()
        if request := self._with_room(self._ahead, self._options.max_tokens):
            self._reading = Outbox()
            self._runtime.engine.submit([request], self._reading)

    def _ahead(self) -> Request | None:
        found = self._heard(self._said) if self._said else self._seen()
        return self._runtime.reading(*found, self.voice, self._options) if found else None

    def _seen(self) -> tuple[Prompt, list[bytes]]:
        """The prompt up to what was shown last, with its blocks' keys."""
        whole = self._runtime.reader.read(
            [*self.messages, *self._turn(self._parts)], speaking=self.voice is not None, **self._how()
        )
        prompt = whole.head(whole.num_to_media_end)
        return prompt, self._runtime.block_keys(prompt)

    def _heard(self, said: _Said) -> tuple[Prompt, list[bytes]] | None:
        """The prompt up to the last whole block of a sound, with its blocks' keys; None where it should wait, see AGAIN."""
        reader, num_standing = self._runtime.reader, min(len(said.blocks), said.sound.mel.num_standing)
        num_again = said.num_again + len(said.blocks) - num_standing
        if num_again > AGAIN * said.sound.num_blocks:
            return None
        if said.before is None:
            said.before = reader.opening(self.messages, self._parts, speaking=self.voice is not None, **self._how())
        said.num_again, said.blocks = num_again, reader.live.blocks(said.sound)
        prompt = reader.heard(said.before, said.blocks)
        standing = said.before.num_tokens + sum(map(reader.senses.num_rows, said.blocks[:num_standing]))
        said.block_keys = self._runtime.block_keys(prompt, said.block_keys, standing)
        return prompt, said.block_keys

    def _how(self) -> dict[str, Any]:
        return {"tools": self.tools, "template_args": self.template_args, "known": self._known}

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


def _as_written(text: str, words: list[str]) -> list[str]:
    """Words of a piece in the letters and with the white space of its text, where no number or sign became words."""
    if not "".join(text.split()).casefold().startswith("".join("".join(words).split()).casefold()):
        return [f"{word.strip()} " for word in words]
    out, at = list[str](), 0
    for word in words:
        first, left = at, len("".join(word.split()))
        while at < len(text) and (left or text[at].isspace()):
            left -= not text[at].isspace()
            at += 1
        out.append(text[first:at])
    return out
