"""Requests made and run on one model: what the public face, sessions, endpoints and benches share."""

from __future__ import annotations

import asyncio
import contextvars
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from omni.engine.align import join_words
from omni.engine.loop import Engine
from omni.engine.options import Options, SpeechArgs
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.engine.scheduler import READING
from omni.engine.speak import SpeakStage
from omni.engine.speech import Speech
from omni.engine.text import TextTrack
from omni.engine.think import ThinkStage
from omni.errors import CapacityError, OptionError, VoiceError
from omni.events import Capabilities, Done, Event, Failed, Word
from omni.kernels.sampling import Sampler
from omni.loading.model import Loaded
from omni.prompt.prompt import Prompt
from omni.prompt.reader import Known, Message
from omni.prompt.tokenizer import Special, StreamDecoder
from omni.script.narration import Narration, Script
from omni.script.wording import Wording
from omni.talker.voice import WHOLE
from omni.talker.voices import pick

P = ParamSpec("P")
T = TypeVar("T")
SMALL = 1 << 20
"""Weights of a matrix below which its products are over before another thread has woken."""
READERS = 32
"""Threads on which media are read at once."""
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
        dictation: how the model writes down what it hears, where the caller says nothing.
        wording: what its voice can be given to say.
        think: the thinker's stage.
        speak: the voice's stage; None in a model without speech.
        engine: runs the requests that `request` makes.
    """

    def __init__(self, loaded: Loaded, *, cache_tokens: int, graphs: bool = True) -> None:
        self.model, self.reader, self.voices, self.defaults = loaded.model, loaded.reader, loaded.voices, loaded.defaults
        self.dictation, self.wording = loaded.dictation, loaded.wording
        model = loaded.model
        self.speak: SpeakStage | None = None
        if model.talker and model.token2wav:
            words = model.thinker.embed_tokens.weight
            self.speak = SpeakStage(model.talker, model.token2wav, words, cache_tokens=cache_tokens, graphs=graphs)
        spoken = (self.speak,) if self.speak else ()
        self.think = ThinkStage(model.thinker, spoken, cache_tokens=cache_tokens, graphs=graphs)
        pace, config = self.speak.pace if self.speak else READING, model.thinker.decoder.config
        is_small = config.hidden_size * config.intermediate_size < SMALL
        self.engine = Engine((self.think, *spoken), pace=pace, alone=is_small)
        self._readers = ThreadPoolExecutor(READERS, "reading")
        self._prepared: dict[str, Any] = {}  # what the vocoder makes of a voice is its own
        self._decoder = StreamDecoder(self.reader.tokenizer)

    def apart(self, salt: bytes) -> Runtime:
        """The same model and engine for somebody whose requests share no cache with those of another salt."""
        other = copy(self)
        other.reader = replace(self.reader, salt=salt)
        return other

    async def aside(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `asyncio.to_thread`, for what reads media: those that wait for a decoder keep nothing else waiting."""
        work = partial(contextvars.copy_context().run, read, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

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
        if tools:
            request.track.mute = CALL
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
            warnings=[*prompt.warnings],
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

    def saying(
        self,
        voice: str | None,
        context: str | Sequence[Message],
        options: SpeechArgs,
        *,
        strict: bool = False,
        text: str | Script | None = None,
    ) -> Narration:
        """What `say` speaks; text: the whole of it, if it is there already."""
        if others := options.keys() - SpeechArgs.__annotations__.keys():
            raise OptionError(f"say takes the words as they are; leave out {', '.join(sorted(others))}")
        script = text if isinstance(text, Script) else self.script(text, strict=strict)
        before = [{"role": "user", "content": context}] if isinstance(context, str) else context
        request = self.request(before, voice or self.default_voice, Options(**options))
        return self.narration(request, voice or self.default_voice, script)

    def script(self, text: str | None, *, strict: bool = False, voiced: bool = True) -> Script:
        """What is to be said, in the words of this model's voice; MessageError where that is nothing."""
        script = Script(self.wording if voiced else Wording(), strict=strict)
        if text is not None:
            script.write(text)
            script.end()
        return script

    def narration(self, request: Request, voice: str | None, script: Script) -> Narration:
        """A script to be spoken as the answer that a request, which was not run, is for."""
        prompt, options = request.prompt, request.options

        def make(words: str, seed: int, max_seconds: float) -> Request:
            limited = replace(options, seed=seed, max_audio_seconds=max_seconds)
            made = self.asking(prompt, request.block_keys, voice, limited)
            made.started, made.media_read = request.started, request.media_read
            self.give(made, self.reader.tokenizer.encode(words))
            return made

        rates = (self.speak.vocoder.frames_per_second, self.sample_rate) if self.speak and voice is not None else None
        return Narration(script, make, seed=request.seed, max_seconds=options.max_audio_seconds, rates=rates)

    def give(self, request: Request, ids: list[int]) -> None:
        """Have a request that was not run yet answered with exactly these ids; ContextError where they do not fit."""
        self.engine.check_text(request.prompt, len(ids))
        request.script = ids

    def narrate(self, narration: Narration, text: Iterator[str] | None = None) -> Generator[Event, None, None]:
        """Events of a narration; text: what its script lacks, asked for when all that came before has been made."""
        outbox = Outbox()
        try:
            while not narration.over:
                self._submit(narration, outbox)
                if text is not None and narration.wants_text and not narration.parts:
                    _write(narration, next(text, None))
                    continue
                if narration.parts:
                    yield from narration.take(*outbox.get())
            yield from narration.end()
        finally:
            self.engine.cancel(narration.requests)

    async def anarrate(self, narration: Narration, text: AsyncIterator[str] | None = None) -> AsyncGenerator[Event, None]:
        """As `narrate`, for an event loop; sound that is there does not wait for text that is still being written."""
        outbox = Outbox()
        told: asyncio.Future[tuple[int, Event | Failed]] | None = None
        writing: asyncio.Future[str | None] | None = None
        try:
            while not narration.over:
                self._submit(narration, outbox)
                if text is not None and writing is None and narration.wants_text:
                    writing = asyncio.ensure_future(_next(text))
                told = told or asyncio.ensure_future(outbox.aget())
                waiting: list[asyncio.Future[Any]] = [told, writing] if writing else [told]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if writing and writing.done():
                    piece, writing = writing.result(), None
                    await asyncio.to_thread(_write, narration, piece)
                if told.done():
                    item, told = told.result(), None
                    for event in narration.take(*item):
                        yield event
            for event in narration.end():
                yield event
        finally:
            self.engine.cancel(narration.requests, wait=False)
            waited = [task for task in (told, writing) if task]
            for task in waited:
                task.cancel()
            await asyncio.gather(*waited, return_exceptions=True)  # whoever closes the text next must find it at rest

    def _submit(self, narration: Narration, outbox: Outbox) -> None:
        """Have what is due run, as far as there is room beside what runs already."""
        if dropped := narration.dropped():
            self.engine.cancel(dropped, wait=False)
        while request := narration.next_request():
            try:
                self.engine.submit([request], outbox)
            except CapacityError:
                if narration.has_others_than(request):  # when one of them ends there is
                    return
                raise
            narration.submitted()

    def run(self, request: Request) -> Generator[Event, None, None]:
        """Events of a request of `request`'s making, as `Omni.stream` gives them."""
        with closing(self.engine.run([request])) as events:
            for _, event in events:
                if isinstance(event, Failed):
                    raise event.error
                yield event

    async def arun(self, request: Request) -> AsyncGenerator[Event, None]:
        """As `run`, for an event loop."""
        outbox = Outbox()
        self.engine.submit([request], outbox)
        try:
            while True:
                _, event = await outbox.aget()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Done):
                    return
        finally:
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
        request = self.request((), self.default_voice, Options(seed=0, max_audio_seconds=8.0, chunks=WHOLE))
        self.give(request, self.reader.tokenizer.encode(SENTENCE))
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


def _write(narration: Narration, text: str | None) -> None:
    """More of its text, or the end."""
    if text is None:
        narration.script.end()
    else:
        narration.script.write(text)


async def _next(pieces: AsyncIterator[T]) -> T | None:
    try:
        return await anext(pieces)
    except StopAsyncIteration:
        return None
