"""Requests made and run on one model: what the public face, sessions, endpoints and benches share."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from omni.engine.align import Word, join_words
from omni.engine.loop import Engine
from omni.engine.options import Options, SpeechArgs
from omni.engine.outbox import Hungry, Outbox
from omni.engine.request import Request, Script
from omni.engine.scheduler import READING
from omni.engine.speak import SpeakStage
from omni.engine.speech import Speech
from omni.engine.text import TextTrack
from omni.engine.think import ThinkStage
from omni.errors import MessageError, OptionError, VoiceError
from omni.events import Capabilities, Done, Event, Failed
from omni.kernels.sampling import Sampler
from omni.loading.model import Loaded
from omni.prompt.prompt import Prompt
from omni.prompt.reader import Known, Message
from omni.prompt.tokenizer import PieceEncoder, Special, StreamDecoder
from omni.talker.voice import WHOLE
from omni.talker.voices import pick

T = TypeVar("T")
SENTENCE = "One, two, three, four, five, six, seven, eight, nine, ten."
CALL = "<tool_call>"
"""What a call begins with in the text of Qwen's models."""
TOLD_TOOLS = (
    "this checkpoint's chat template has no place for tools; they were written into the system's message in the form that "
    "its family was taught"
)
MUTE = "this model does not speak: it has no voice, or was loaded without speech; "


class Runtime:
    """A loaded model with its engine.

    Attributes:
        reader: turns messages into prompts.
        voices: the voices that it speaks with, by name; none in a model without speech.
        defaults: how answers are made where the caller says nothing.
        think: the thinker's stage.
        speak: the voice's stage; None in a model without speech.
        engine: runs the requests that `request` makes.
    """

    def __init__(self, loaded: Loaded, *, cache_tokens: int, graphs: bool = True) -> None:
        self.model, self.reader, self.voices, self.defaults = loaded.model, loaded.reader, loaded.voices, loaded.defaults
        model = loaded.model
        self.speak: SpeakStage | None = None
        if model.talker and model.token2wav:
            words = model.thinker.embed_tokens.weight
            self.speak = SpeakStage(model.talker, model.token2wav, words, cache_tokens=cache_tokens, graphs=graphs)
        spoken = (self.speak,) if self.speak else ()
        self.think = ThinkStage(model.thinker, spoken, cache_tokens=cache_tokens, graphs=graphs)
        self.engine = Engine((self.think, *spoken), pace=self.speak.pace if self.speak else READING)
        self._prepared: dict[str, Any] = {}  # what the vocoder makes of a voice is its own
        self._decoder, self._encoder = StreamDecoder(self.reader.tokenizer), PieceEncoder(self.reader.tokenizer)

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do."""
        reader = self.reader
        return Capabilities(
            reader.ears is not None, reader.eyes is not None, self.speak is not None, reader.template.takes_tools
        )

    @property
    def sample_rate(self) -> int:
        """Of its sound, in Hz; 0 in a model without speech."""
        return self.speak.vocoder.sample_rate if self.speak else 0

    @property
    def default_voice(self) -> str:
        """Who speaks where nobody is named: Chelsie, as in transformers, or else the checkpoint's first."""
        if not self.voices:
            raise VoiceError(MUTE + "take one that speaks, and load it with speech=True")
        return "Chelsie" if "Chelsie" in self.voices else next(iter(self.voices))

    def request(
        self,
        messages: Sequence[Message],
        voice: str | None,
        options: Options,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        template_args: Mapping[str, Any] | None = None,
        known: Known | None = None,
        must_call: bool | str = False,
    ) -> Request:
        """A request whose media have been read; every fault of its input shows here.

        known: see `PromptReader.read`.
        """
        opening = self._opening(tools, must_call) if must_call else []
        started = time.perf_counter()
        if voice is not None:
            self.check_voice(voice)
        prompt = self.reader.read(
            messages,
            speaking=voice is not None,
            audio_in_video=audio_in_video,
            tools=tools,
            template_args=template_args,
            known=known,
        )
        request = self.asking(prompt, self.block_keys(prompt), voice, options)
        if tools and (call := self.reader.tokenizer.specials.get(CALL)) is not None:
            request.mute_ids = frozenset({call})
        if tools and self.reader.template.adds_tools:
            request.warnings.append(TOLD_TOOLS)
        request.opening = opening
        request.started = started
        request.media_read = request.elapsed()
        return request

    def _opening(self, tools: Sequence[Mapping[str, Any]], must_call: bool | str) -> list[int]:
        """What an answer begins with that calls any of these functions, or the one of this name."""
        names = [tool["function"]["name"] for tool in tools]
        if not names or (isinstance(must_call, str) and must_call not in names):
            raise OptionError(f"must_call is {must_call!r}, and the tools are {names}; name one of them, or give True")
        name = must_call if isinstance(must_call, str) else names[0] if len(names) == 1 else None
        text = '\n{"name": "' if name is None else f'\n{{"name": {json.dumps(name)}, "arguments":'
        tokenizer = self.reader.tokenizer
        return tokenizer.encode_runs([Special(CALL), text] if CALL in tokenizer.specials else [CALL + text])

    def block_keys(self, prompt: Prompt, known: Sequence[bytes] = (), num_rows: int = 0) -> list[bytes]:
        """As `PromptReader.block_keys`, in the engine's blocks; known: of a prompt that begins with so many of its rows."""
        block_size = self.engine.block_size
        return self.reader.block_keys(prompt, block_size, known[: num_rows // block_size])

    def asking(self, prompt: Prompt, block_keys: list[bytes], voice: str | None, options: Options) -> Request:
        """A request to answer to a prompt; ContextError where it leaves no room for that."""
        self.engine.check(prompt)
        seed = secrets.randbelow(2**53) if options.seed is None else options.seed
        vocab_size, device = self.model.thinker.config.vocab_size, self.engine.device
        sampler = Sampler(options.sampling(self.defaults.sampling), vocab_size, seed=seed, device=device)
        sampler.saw(prompt.ids.to(device))
        track = TextTrack(self._decoder, options.stop_strings)
        return Request(
            prompt=prompt,
            seed=seed,
            clock=prompt.clock_after(),
            options=options,
            sampler=sampler,
            track=track,
            text=track.start(),
            speech=self._speech(voice, options, seed) if voice is not None else None,
            block_keys=block_keys,
        )

    def reading(self, prompt: Prompt, block_keys: list[bytes], voice: str | None, options: Options) -> Request | None:
        """A request to read the whole blocks of a prompt and no more, for an answer to come; None where there is none.

        block_keys: of the whole prompt.
        """
        if not block_keys:
            return None
        request = self.asking(prompt, block_keys, voice, options)
        request.prompt = prompt.head(len(block_keys) * self.engine.block_size)
        request.prefill_only = True
        return request

    def check_voice(self, name: str) -> None:
        """Raise VoiceError where nobody speaks by that name."""
        if self.speak is None:
            raise VoiceError(MUTE + f"leave voice {name!r} out, or take one that speaks, and load it with speech=True")
        pick(self.voices, name)

    def _speech(self, name: str, options: Options, seed: int) -> Speech:
        """The spoken side of an answer; what the vocoder makes of a voice is kept from its first use on."""
        voice, stage = pick(self.voices, name), self.speak
        assert stage
        if name not in self._prepared:
            self._prepared[name] = self.engine.call(lambda: stage.vocoder.prepare(voice))
        return stage.start(voice, self._prepared[name], options, seed)

    def saying(self, text: str | None, voice: str | None, context: str | Sequence[Message], options: SpeechArgs) -> Request:
        """The request of `say`; without a text it is still to be written."""
        before = [{"role": "user", "content": context}] if isinstance(context, str) else context
        if text is not None and not text.strip():
            raise MessageError("there is no text to say; give at least one word")
        if others := options.keys() - SpeechArgs.__annotations__.keys():
            raise OptionError(f"say takes the words as they are; leave out {', '.join(sorted(others))}")
        request = self.request(before, voice or self.default_voice, Options(**options))
        if text is None:
            request.script = Script()
        else:
            self.give(request, self.reader.tokenizer.encode(text))
        return request

    def give(self, request: Request, ids: list[int]) -> None:
        """Have a request that was not run yet answered with exactly these ids; ContextError where they do not fit."""
        self.engine.check_text(request.prompt, len(ids))
        request.script = Script(ids, ended=True)

    def ids_of(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """Ids of text that comes in pieces, the same as those of the whole."""
        state = self._encoder.start()
        for piece in pieces:
            yield self._encoder.step(state, piece)
        yield self._encoder.finish(state)

    async def aids_of(self, pieces: AsyncIterable[str]) -> AsyncGenerator[list[int], None]:
        state = self._encoder.start()
        async for piece in pieces:
            yield self._encoder.step(state, piece)
        yield self._encoder.finish(state)

    def run(self, request: Request, given: Iterator[list[int]] | None = None) -> Generator[Event, None, None]:
        """Events of a request of `request`'s making, as `Omni.stream` gives them.

        given: ids of text that is still being written, asked for when the talker has no more.
        """
        with closing(self.engine.run([request], given)) as events:
            for _, event in events:
                if isinstance(event, Failed):
                    raise event.error
                yield event

    async def arun(self, request: Request, given: AsyncIterator[list[int]] | None = None) -> AsyncGenerator[Event, None]:
        """As `run`, for an event loop; sound that is there does not wait for text that is still being written."""
        outbox = Outbox()
        self.engine.submit([request], outbox)
        told: asyncio.Future[tuple[int, Event | Failed | Hungry]] | None = None
        feeding: asyncio.Future[list[int] | None] | None = None
        try:
            while True:
                told = told or asyncio.ensure_future(outbox.aget())
                waiting: list[asyncio.Future[Any]] = [told, feeding] if feeding else [told]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if feeding and feeding.done():
                    ids, feeding = feeding.result(), None
                    self.engine.feed(request, ids or [], ended=ids is None)
                if not told.done():
                    continue
                (_, event), told = told.result(), None
                match event:
                    case Hungry():
                        assert given
                        feeding = asyncio.ensure_future(_next(given))
                    case Failed():
                        raise event.error
                    case _:
                        yield event
                        if isinstance(event, Done):
                            return
        finally:
            for task in (told, feeding):
                if task:
                    task.cancel()
            self.engine.cancel([request], wait=False)

    def words(self, request: Request, messages: Sequence[Message], voice: str, **how: Any) -> list[Word]:
        """When each word of a spoken answer is said, by what the talker attends to; those it did not come to are left out.

        request: has been answered, or was interrupted; messages, voice, how: what it was made from, as for `request`.
        """
        stage, speech = self.speak, request.speech
        if not stage or not speech or not speech.track.frames:
            return []
        if stage.heads is None:
            self.warm_up()
        starts = self._starts(request, messages, voice, **how)
        state = self._decoder.start()
        pieces = [self._decoder.step(state, [token]) for token in request.ids[: len(starts)]]
        times = [start / stage.vocoder.frames_per_second for start in [*starts, len(speech.track.frames)]]
        words = join_words(pieces, times)
        if speech.ended and not request.limits & {"audio", "context"}:
            return words
        return [word for word in words if word.start < times[-1]]

    def warm_up(self) -> None:
        """Speak a sentence to itself: the first answer then comes as soon as others, and `words` knows where to look."""
        if self.speak is None:
            return
        request = self.saying(SENTENCE, None, (), {"seed": 0, "max_audio_seconds": 8.0, "chunks": WHOLE})
        list(self.run(request))
        if self.speak.heads is None:
            self._starts(request, (), self.default_voice)

    def _starts(self, request: Request, messages: Sequence[Message], voice: str, **how: Any) -> list[int]:
        """The frame at which each id of a spoken answer begins."""
        stage, speech, starts = self.speak, request.speech, list[int]()
        assert stage and speech
        again = self.request(messages, voice, request.options, **how)
        assert again.speech
        cache = again.speech.cache
        again.prefill_only = True
        again.then = lambda: starts.extend(stage.token_starts(again.prompt, cache, speech))
        list(self.run(again))
        return starts


async def _next(pieces: AsyncIterator[T]) -> T | None:
    return await anext(pieces, None)
