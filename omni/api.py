"""`Omni`: load a checkpoint, ask, stream, say."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch

from omni.encoders.media import Budget
from omni.engine.align import Word, join_words
from omni.engine.loop import Engine
from omni.engine.options import OptionArgs, Options, SpeechArgs
from omni.engine.outbox import Hungry, Outbox
from omni.engine.request import Request, Speech
from omni.engine.sampler import Sampler
from omni.engine.text import TextTrack
from omni.errors import CheckpointError, DeviceError, MessageError, OptionError, VoiceError
from omni.events import Capabilities, Done, Event, Failed, Reply, collect
from omni.families.qwen2_5_omni import LAYOUT, SPEECH, Qwen2_5Omni, build, dtype_of, is_voice
from omni.kernels.weights import gains, gains_bytes
from omni.loading.checkpoint import Checkpoint, find, load
from omni.loading.device import is_fast_in, leave_cores, pick_devices, pick_dtype
from omni.loading.gptq_awq import read_published
from omni.loading.packing import Packing, check_weights
from omni.loading.progress import loading_bar
from omni.models.config import read_config, read_mel, read_pixels
from omni.prompt.reader import Message, PromptReader
from omni.prompt.template import Template
from omni.prompt.tokenizer import PieceEncoder, StreamDecoder, Tokenizer
from omni.session import Session
from omni.talker.vocoder import CODES_PER_SECOND, FAITHFUL, SAMPLE_RATE, WHOLE, PreparedVoice, pick_preset
from omni.talker.voices import Voice, pick, read_voices

T = TypeVar("T")
CACHE_TOKENS = 65536
SENTENCE = "One, two, three, four, five, six, seven, eight, nine, ten."
CALL = "<tool_call>"
"""What a call begins with in the text of Qwen's models."""


class Omni:
    """A model that sees, hears and speaks, ready to answer. Make one with `Omni.load`.

    Attributes:
        voices: the voices that it speaks with, by name; none in a checkpoint without speech.
        sample_rate: of the sound it makes, in Hz.
        engine: runs the requests that `request` makes.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        model: Qwen2_5Omni,
        reader: PromptReader,
        voices: dict[str, Voice],
        *,
        cache_tokens: int = CACHE_TOKENS,
        graphs: bool = True,
    ) -> None:
        self.model = model
        self.voices = voices
        self._reader = reader
        self.engine = Engine(model, cache_tokens=cache_tokens, graphs=graphs)
        self._prepared: dict[str, PreparedVoice] = {}
        tokenizer = reader.tokenizer
        self._decoder, self._encoder = StreamDecoder(tokenizer), PieceEncoder(tokenizer)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        weights: str = "auto",
        vocoder: str = "faithful",
        speech: bool = True,
        cache_tokens: int = CACHE_TOKENS,
        graphs: bool = True,
        budget: Budget | None = None,
        progress: bool = True,
    ) -> Omni:
        """Load a Qwen2.5-Omni checkpoint.

        Args:
            model: a folder, or a hub id such as "Qwen/Qwen2.5-Omni-3B"; None for the small one that ships with the package.
            device: "cpu", "cuda", "cuda:1", or "auto" for the GPU where there is one; two with a comma, "cuda:0,cuda:1", for
                the thinker and for the voice (talker and vocoder).
            dtype: "float32", "bfloat16", "float16", or "auto" for the checkpoint's own where the device is fast at it. The
                vocoder computes in float32, whatever it is.
            weights: "int8" or "int4" rounds the decoders of thinker and talker to 8 or 4 bits while loading; "auto" leaves
                them as they are stored. A thinker that was published in 4 bits, by GPTQ or AWQ, keeps them.
            vocoder: how much work goes into speech. "faithful" follows the published models: 36 evaluations, float32; "fast"
                takes 18 and "turbo" 10, with bfloat16 products where the device has them in hardware, or on a CPU in 8 bits
                where `weights` asks for fewer.
            speech: False leaves talker and vocoder out, and their memory free.
            cache_tokens: tokens that all running answers may hold together.
            graphs: on a GPU, record the decoders' steps as CUDA graphs; False launches every kernel by itself.
            budget: how large media may be.
            progress: show a bar while loading.

        Raises:
            CheckpointError, DeviceError, OptionError.
        """
        if cache_tokens < 1:
            raise OptionError(f"cache_tokens is {cache_tokens}; give 1 or more, and at least the longest prompt and answer")
        check_weights(weights)
        preset = pick_preset(vocoder)
        folder = find(model)
        place, voice_place = pick_devices(device)
        config = read_config(folder)
        kept, voice_kept = (pick_dtype(dtype, config.dtype, where) for where in (place, voice_place))
        tokenizer = Tokenizer.read(folder)
        mel_kept = preset.dtype if is_fast_in(preset.dtype, voice_place) else torch.float32
        net = build(config, speech=speech)
        if net.token2wav:
            net.token2wav.solver = preset.solver
        voices = read_voices(folder) if net.talker else {}
        for voice in voices.values():
            if not 0 <= voice.bos_id < config.thinker.vocab_size:
                raise CheckpointError(
                    f"voice {voice.name!r} has id {voice.bos_id}, which the model lacks; fetch the voices again"
                )
        reader = PromptReader(
            tokenizer,
            Template.read(folder),
            config.thinker.media,
            read_pixels(folder, config.thinker.vision),
            read_mel(folder, config.thinker.audio),
            config.thinker.decoder.max_positions,
            budget or Budget(),
        )
        layout = LAYOUT if net.talker else replace(LAYOUT, unused=LAYOUT.unused + SPEECH)
        checkpoint = Checkpoint.open(folder)

        def kept_in(name: str) -> torch.dtype:
            return dtype_of(name, voice_kept if is_voice(name) else kept, mel_kept)

        def kept_on(name: str) -> torch.device:
            return voice_place if is_voice(name) else place

        packing = Packing(
            net,
            checkpoint,
            layout,
            weights=weights,
            flow="int8" if weights != "auto" and preset is not FAITHFUL and gains_bytes(voice_place) else "auto",
            published=read_published(folder),
            gains=lambda name, inputs: gains(kept_in(name), kept_on(name), inputs),
        )
        with loading_bar(folder.name, shown=progress) as bar:
            load(
                net,
                checkpoint,
                packing.layout,
                dtype_of=kept_in,
                device_of=kept_on,
                progress=bar,
                arrived=packing.arrived,
            )
        leave_cores()
        try:
            return cls(net, reader, voices, cache_tokens=cache_tokens, graphs=graphs)
        except torch.OutOfMemoryError as e:
            raise DeviceError(
                f"{device} has no room for a cache of {cache_tokens} tokens beside the weights; load with fewer cache_tokens"
            ) from e

    @property
    def capabilities(self) -> Capabilities:
        """Whether it hears, sees and speaks."""
        thinker = self.model.thinker
        return Capabilities(thinker.audio_tower is not None, thinker.visual is not None, self.engine.speak is not None)

    @property
    def budget(self) -> Budget:
        """How large media may be."""
        return self._reader.budget

    @property
    def default_voice(self) -> str:
        """Who speaks where nobody is named: Chelsie, as in transformers, or else the checkpoint's first."""
        if not self.voices:
            raise VoiceError("this model was loaded without speech; load it with speech=True, or take one that speaks")
        return "Chelsie" if "Chelsie" in self.voices else next(iter(self.voices))

    def generate(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Unpack[OptionArgs],
    ) -> Reply:
        """Answer chat messages, all at once.

        Args:
            messages: `[{"role": "user", "content": [...]}]`. A content is a text or a list of parts:
                `{"type": "text", "text": t}`,
                `{"type": "image", "image": x}` with a path, bytes, data URL, PIL image or uint8 array,
                `{"type": "audio", "audio": x}` with a path, bytes, data URL or `(wave, sample_rate)`,
                `{"type": "video", "video": x}` with a path, bytes, data URL or list of frames, and optionally "fps",
                "num_frames", "max_frames", "start", "end" in seconds, "min_pixels", "max_pixels", "audio_in_video";
                and OpenAI's `image_url`, `input_audio`, `video_url`.
            voice: speak the answer with this voice; None for text alone.
            audio_in_video: hear the sound of clips; None for those that have one.
            tools: functions that the model may call, as OpenAI describes them, for a checkpoint whose chat template takes
                them; calls are part of the text, in the checkpoint's own form, and never spoken.
            options: lengths, sampling, stop strings, seed; see `Options`.

        Raises:
            InputError: before anything runs; see `omni.errors`.
        """
        asked = Options(**options)
        if "chunks" not in options:  # one window over the whole speech is exact, and cheaper than several that overlap
            asked = replace(asked, chunks=WHOLE)
        events = self.run(self.request(messages, voice, asked, audio_in_video, tools))
        return collect(events, self.sample_rate, spoken=voice is not None)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Unpack[OptionArgs],
    ) -> Generator[Event, None, None]:
        """Answer chat messages with events as they are made: TextDelta and AudioChunk, then one Done.

        Arguments and errors are `generate`'s. Closing the iterator cancels the answer.
        """
        return self.run(self.request(messages, voice, Options(**options), audio_in_video, tools))

    async def astream(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Unpack[OptionArgs],
    ) -> AsyncGenerator[Event, None]:
        """As `stream`, for an event loop, which goes on while media are read and while the answer is made."""
        request = await asyncio.to_thread(self.request, messages, voice, Options(**options), audio_in_video, tools)
        async with aclosing(self.arun(request)) as events:
            async for event in events:
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

    def ping(self, timeout: float) -> bool:
        """Whether the engine's thread does what it is told within so many seconds; between two of its steps it does."""
        return self.engine.answers(timeout)

    def say(
        self,
        text: str | Iterable[str],
        *,
        voice: str | None = None,
        context: str | Sequence[Message] = (),
        **options: Unpack[SpeechArgs],
    ) -> Generator[Event, None, None]:
        """Speak exactly these words: they are put in the assistant's mouth, and nothing is sampled but their sound.

        Args:
            text: at once, or in pieces as they come; a piece may end in the middle of a word.
            voice: who speaks; `default_voice` when None.
            context: what comes before and shapes how it is said: an instruction, or chat messages.
            options: `max_audio_seconds`, `voice_sampling`, `seed` and `chunks` of `Options`.

        Yields:
            TextDelta for the words as they are read, AudioChunk as they are spoken, then one Done.

        Raises:
            InputError: before anything runs.
        """
        request = self._saying(text if isinstance(text, str) else None, voice, context, options)
        return self.run(request, None if isinstance(text, str) else self._given(text))

    async def asay(
        self,
        text: str | AsyncIterable[str],
        *,
        voice: str | None = None,
        context: str | Sequence[Message] = (),
        **options: Unpack[SpeechArgs],
    ) -> AsyncGenerator[Event, None]:
        """As `say`, for an event loop; text in pieces comes from an asynchronous iterable."""
        request = await asyncio.to_thread(self._saying, text if isinstance(text, str) else None, voice, context, options)
        given = None if isinstance(text, str) else self._agiven(text)
        async with aclosing(self.arun(request, given)) as events:
            async for event in events:
                yield event

    def _saying(self, text: str | None, voice: str | None, context: str | Sequence[Message], options: SpeechArgs) -> Request:
        """The request of `say`; without a text it is still to be written."""
        before = [{"role": "user", "content": context}] if isinstance(context, str) else context
        if text is not None and not text.strip():
            raise MessageError("there is no text to say; give at least one word")
        if others := options.keys() - SpeechArgs.__annotations__.keys():
            raise OptionError(f"say takes the words as they are; leave out {', '.join(sorted(others))}")
        request = self.request(before, voice or self.default_voice, Options(**options))
        if text is None:
            request.given = []
        else:
            self.give(request, text)
        return request

    def give(self, request: Request, text: str) -> None:
        """Have a request that was not run yet answered with exactly these words; ContextError where they do not fit."""
        ids = self._reader.tokenizer.encode(text)
        self.engine.check_text(request.prompt, len(ids))
        request.given, request.given_ended = ids, True

    def words(self, request: Request, messages: Sequence[Message], voice: str) -> list[Word]:
        """When each word of a spoken answer is said, by what the talker attends to; those it did not come to are left out.

        request: has been answered, or was interrupted; messages, voice: what it was made from.
        """
        stage, speech = self.engine.speak, request.speech
        if not stage or not speech or not speech.codes:
            return []
        if stage.heads is None:
            self.warm_up()
        starts = self._starts(request, messages, voice)
        state = self._decoder.start()
        pieces = [self._decoder.step(state, [token]) for token in request.ids[: len(starts)]]
        times = [start / CODES_PER_SECOND for start in [*starts, len(speech.codes)]]
        words = join_words(pieces, times)
        if speech.ended and not request.limits & {"audio", "context"}:
            return words
        return [word for word in words if word.start < times[-1]]

    def warm_up(self) -> None:
        """Speak a sentence to itself: the first answer then comes as soon as others, and `words` knows where to look."""
        if self.engine.speak is None:
            return
        request = self._saying(SENTENCE, None, (), {"seed": 0, "max_audio_seconds": 8.0, "chunks": WHOLE})
        list(self.run(request))
        if self.engine.speak.heads is None:
            self._starts(request, (), self.default_voice)

    def _starts(self, request: Request, messages: Sequence[Message], voice: str) -> list[int]:
        """The code at which each id of a spoken answer begins."""
        stage, speech, starts = self.engine.speak, request.speech, list[int]()
        assert stage and speech
        again = self.request(messages, voice, request.options)
        assert again.speech
        cache = again.speech.cache
        again.only_reads = True
        again.then = lambda: starts.extend(stage.token_starts(again.prompt, cache, speech))
        list(self.run(again))
        return starts

    def session(self, *, system: str | None = None, voice: str | None = None, **options: Unpack[OptionArgs]) -> Session:
        """A conversation that keeps its past, and reads what is said while it is being said.

        Args:
            system: what the model is told before the first turn.
            voice: speaks the answers; None for text alone.
            options: of every answer; see `Options`.

        Raises:
            InputError.
        """
        if voice is not None:
            self._check_voice(voice)
        return Session(self, system, voice, Options(**options))

    def _given(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """Ids of text that comes in pieces, the same as those of the whole."""
        state = self._encoder.start()
        for piece in pieces:
            yield self._encoder.step(state, piece)
        yield self._encoder.finish(state)

    async def _agiven(self, pieces: AsyncIterable[str]) -> AsyncGenerator[list[int], None]:
        state = self._encoder.start()
        async for piece in pieces:
            yield self._encoder.step(state, piece)
        yield self._encoder.finish(state)

    def run(self, request: Request, given: Iterator[list[int]] | None = None) -> Generator[Event, None, None]:
        """Events of a request of `request`'s making, as `stream` gives them.

        given: ids of text that is still being written, asked for when the talker has no more.
        """
        outbox = Outbox()
        self.engine.submit([request], outbox)
        try:
            while True:
                _, event = outbox.get()
                match event:
                    case Hungry():
                        assert given
                        ids = next(given, None)
                        self.engine.feed(request, ids or [], ended=ids is None)
                    case Failed():
                        raise event.error
                    case _:
                        yield event
                        if isinstance(event, Done):
                            return
        finally:
            self.engine.cancel([request])

    def request(
        self,
        messages: Sequence[Message],
        voice: str | None,
        options: Options,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Request:
        """A request whose media have been read; every fault of its input shows here."""
        started = time.perf_counter()
        if voice is not None:
            self._check_voice(voice)
        prompt = self._reader.read(messages, speaking=voice is not None, audio_in_video=audio_in_video, tools=tools)
        self.engine.check(prompt)
        seed = secrets.randbelow(2**62) if options.seed is None else options.seed
        config, device = self.model.thinker.config, self.engine.think.lane.device
        sampler = Sampler(options.sampling, config.vocab_size, seed=seed, device=device)
        sampler.saw(prompt.ids.to(device))
        track = TextTrack(self._decoder, options.stop_strings)
        request = Request(
            prompt=prompt,
            seed=seed,
            clock=prompt.clock_after(),
            options=options,
            sampler=sampler,
            track=track,
            text=track.start(),
            speech=self._speech(voice, options, seed) if voice is not None else None,
            page_keys=prompt.page_keys(self.engine.think.lane.pool.page_size, config.audio.chunk_frames),
            started=started,
        )
        if tools and (call := self._reader.tokenizer.specials.get(CALL)) is not None:
            request.mute_ids = frozenset({call})
        request.media_read = request.elapsed()
        return request

    def _check_voice(self, name: str) -> None:
        if self.engine.speak is None:
            raise VoiceError(f"voice {name!r} was asked for, but this model was loaded without speech; leave voice out")
        pick(self.voices, name)

    def _speech(self, name: str, options: Options, seed: int) -> Speech:
        """The spoken side of an answer; what the vocoder makes of a voice is kept from its first use on."""
        voice, stage = pick(self.voices, name), self.engine.speak
        assert stage
        if name not in self._prepared:
            self._prepared[name] = self.engine.call(lambda: stage.vocoder.prepare(voice))
        return stage.begin(voice, self._prepared[name], options, seed)


async def _next(pieces: AsyncIterator[T]) -> T | None:
    return await anext(pieces, None)
