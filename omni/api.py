"""`Omni`: load a checkpoint, ask, stream, say, transcribe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Unpack

import torch

from omni.encoders.decoder import HERE, Decoder
from omni.encoders.sources import Budget
from omni.encoders.speech import Cutting
from omni.encoders.waves import AudioSource
from omni.engine.loop import Engine
from omni.engine.options import OptionArgs, Options, SpeechArgs
from omni.errors import DeviceError, OptionError
from omni.events import Capabilities, Event, Heard, Reply, Transcript, collect
from omni.loading.model import load_model
from omni.models.model import OmniModel
from omni.prompt.reader import Message, shows
from omni.runtime import Runtime
from omni.script.narration import Script
from omni.script.wording import Spoken
from omni.session import Session
from omni.talker.voice import WHOLE
from omni.talker.voices import Voice
from omni.transcription import cutting_of, transcriber

CACHE_TOKENS = 65536


class Omni:
    """A model that sees, hears and speaks, ready to answer. Make one with `Omni.load`.

    Attributes:
        runtime: makes and runs the requests behind every call.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def model(self) -> OmniModel:
        """The network with its weights."""
        return self.runtime.model

    @property
    def engine(self) -> Engine:
        """Runs the requests of all callers."""
        return self.runtime.engine

    @property
    def capabilities(self) -> Capabilities:
        """Whether it hears, sees and speaks."""
        return self.runtime.capabilities

    @property
    def sample_rate(self) -> int:
        """Of its sound, in Hz; 0 in a model without speech."""
        return self.runtime.sample_rate

    @property
    def voices(self) -> dict[str, Voice]:
        """The voices that it speaks with, by name; none in a model without speech."""
        return self.runtime.voices

    @property
    def default_voice(self) -> str:
        """Who speaks where nobody is named; VoiceError in a model without speech."""
        return self.runtime.default_voice

    @property
    def budget(self) -> Budget:
        """How large media may be."""
        return self.runtime.reader.budget

    @property
    def decoder(self) -> Decoder:
        """Opens the files of pictures, clips and sounds; another may be set, which does so in other processes."""
        return self.runtime.reader.decoder

    @decoder.setter
    def decoder(self, decoder: Decoder | None) -> None:
        self.runtime.reader = replace(self.runtime.reader, decoder=decoder or HERE)

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
        """Load a checkpoint of a known family (`omni.families`).

        Args:
            model: a folder, a GGUF of a model of text, or a hub id such as "Qwen/Qwen2.5-Omni-3B"; None for the small one
                that ships with the package.
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
        loaded = load_model(
            model,
            device=device,
            dtype=dtype,
            weights=weights,
            vocoder=vocoder,
            speech=speech,
            budget=budget,
            progress=progress,
        )
        try:
            return cls(Runtime(loaded, cache_tokens=cache_tokens, graphs=graphs))
        except torch.OutOfMemoryError as e:
            raise DeviceError(
                f"{device} has no room for a cache of {cache_tokens} tokens beside the weights; load with fewer cache_tokens"
            ) from e

    def generate(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        must_call: bool | str = False,
        template_args: Mapping[str, Any] | None = None,
        **options: Unpack[OptionArgs],
    ) -> Reply:
        """Answer chat messages, all at once.

        Args:
            messages: `[{"role": "user", "content": [...]}]`. A content is a text or a list of parts:
                `{"type": "text", "text": t}`,
                `{"type": "image", "image": x}` with a path, bytes, data URL, PIL image or uint8 array,
                `{"type": "audio", "audio": x}` with a path, bytes, data URL or `(wave, sample_rate)`,
                `{"type": "video", "video": x}` with a path, bytes, data URL or list of frames;
                and OpenAI's `image_url`, `input_audio`, `video_url`. Pictures and clips take "min_pixels", "max_pixels",
                "resized_height" with "resized_width"; clips "fps", "num_frames", "min_frames", "max_frames", "total_pixels",
                "audio_in_video"; clips and sounds "start" and "end" in seconds. The spellings of qwen_omni_utils ("nframes",
                "sample_fps", "video_start", "audio_end", "use_audio_in_video", ...) are known too, other fields an error. An
                assistant's message may have `tool_calls`, and what it thought as `reasoning_content`.
            voice: speak the answer with this voice; None for text alone.
            audio_in_video: hear the sound of clips; None for those that have one.
            tools: functions that the model may call, as OpenAI describes them, for a checkpoint whose chat template takes
                them or whose family was taught to call; calls are part of the text, in the checkpoint's own form, and never
                spoken.
            must_call: True lets the answer begin with a call of one of the tools; a name with a call of that one.
            template_args: switches of the checkpoint's chat template, such as `{"enable_thinking": False}`.
            options: lengths, sampling, stop strings, seed; see `Options`.

        Raises:
            InputError: before anything runs; see `omni.errors`.
        """
        asked = Options(**options)
        if "chunks" not in options:  # one window over the whole speech is exact, and cheaper than several that overlap
            asked = replace(asked, chunks=WHOLE)
        request = self.runtime.request(messages, voice, asked, audio_in_video, tools, template_args, must_call=must_call)
        return collect(self.runtime.run(request), self.sample_rate, spoken=voice is not None)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        must_call: bool | str = False,
        template_args: Mapping[str, Any] | None = None,
        **options: Unpack[OptionArgs],
    ) -> Generator[Event, None, None]:
        """Answer chat messages with events as they are made: TextDelta and AudioChunk, then one Done.

        Arguments and errors are `generate`'s. Closing the iterator cancels the answer.
        """
        asked = Options(**options)
        return self.runtime.run(
            self.runtime.request(messages, voice, asked, audio_in_video, tools, template_args, must_call=must_call)
        )

    async def astream(
        self,
        messages: Sequence[Message],
        *,
        voice: str | None = None,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        must_call: bool | str = False,
        template_args: Mapping[str, Any] | None = None,
        **options: Unpack[OptionArgs],
    ) -> AsyncGenerator[Event, None]:
        """As `stream`, for an event loop, which goes on while media are read and while the answer is made."""
        work = self.runtime.aside if shows(messages) else asyncio.to_thread
        request = await work(
            self.runtime.request,
            messages,
            voice,
            Options(**options),
            audio_in_video,
            tools,
            template_args,
            must_call=must_call,
        )
        async with aclosing(self.runtime.arun(request)) as events:
            async for event in events:
                yield event

    def apart(self, salt: str) -> Omni:
        """The same model for somebody who is to learn nothing of what others ask.

        What was read before is kept, and who asks the same is answered sooner: one look at the time would tell whether
        somebody has. Between different salts nothing is shared but the weights.
        """
        return Omni(self.runtime.apart(blake2b(salt.encode(), digest_size=16).digest()))

    async def look(self, part: Message) -> None:
        """Read a picture, clip or sound of a message to come, so that what is wrong with it shows now.

        part: as in `generate`. What was read lately is not read again. Raises InputError.
        """
        await self.runtime.aside(self.runtime.reader.part, part, "what is shown")

    def ping(self, timeout: float) -> bool:
        """Whether the engine's thread does what it is told within so many seconds; between two of its steps it does."""
        return self.engine.answers(timeout)

    def say(
        self,
        text: str | Script | Iterable[str],
        *,
        voice: str | None = None,
        context: str | Sequence[Message] = (),
        strict: bool = False,
        **options: Unpack[SpeechArgs],
    ) -> Generator[Event, None, None]:
        """Speak exactly these words, however many: they are put in the assistant's mouth, and only their sound is sampled.

        The text is cut at sentences, and each piece spoken as an answer of its own, the next one made while one is told.
        Pieces of a text that is there are as long as the voice was taught; one that comes in pieces is spoken as it comes.

        Args:
            text: at once, as a `script`, or in pieces as they come; a piece may end in the middle of a word.
            voice: who speaks; `default_voice` when None.
            context: what comes before and shapes how it is said: an instruction, or chat messages.
            strict: words that the voice has no sound for are an error, not a warning; see `spoken`.
            options: `max_audio_seconds`, `voice_sampling`, `seed` and `chunks` of `Options`.

        Yields:
            TextDelta for the words as they are written, when they begin to be spoken, AudioChunk, then one Done. Its
            `warnings` name words that were left out and pieces in which the voice went astray, its `token_ids` are what the
            voice was given.

        Raises:
            InputError: before anything runs, as far as the text is there.
        """
        whole = text if isinstance(text, str | Script) else None
        narration = self.runtime.saying(voice, context, options, strict=strict, text=whole)
        return self.runtime.narrate(narration, None if isinstance(text, str | Script) else iter(text))

    async def asay(
        self,
        text: str | Script | AsyncIterable[str],
        *,
        voice: str | None = None,
        context: str | Sequence[Message] = (),
        strict: bool = False,
        **options: Unpack[SpeechArgs],
    ) -> AsyncGenerator[Event, None]:
        """As `say`, for an event loop; text in pieces comes from an asynchronous iterable."""
        whole = text if isinstance(text, str | Script) else None
        narration = await asyncio.to_thread(self.runtime.saying, voice, context, options, strict=strict, text=whole)
        given = None if isinstance(text, str | Script) else aiter(text)
        async with aclosing(self.runtime.anarrate(narration, given)) as events:
            async for event in events:
                yield event

    @property
    def cutting(self) -> Cutting:
        """How recordings are cut that this model writes down: as long as it was taught to, at pauses that it hears apart."""
        return cutting_of(self.runtime)

    def transcribe(
        self,
        source: AudioSource,
        *,
        words: bool = False,
        instruction: str | None = None,
        cutting: Cutting | None = None,
        **options: Unpack[OptionArgs],
    ) -> Transcript:
        """Write down what is said in a recording of any length.

        It is cut at silences, and where somebody goes on for long at the quietest place; parts without a voice are passed
        over. Pieces are transcribed side by side.

        Args:
            source: a path, the bytes or a data URL of a sound file or of a clip with sound, or `(wave, sample_rate)`.
            words: tell when each word was said, by what the model attends to while it writes it.
            instruction: what the model is told behind each piece; the checkpoint's own when None.
            cutting: how it is cut; `self.cutting` when None.
            options: of each piece's text; it is greedy unless they say otherwise, and as long as anybody could speak.

        Raises:
            InputError: before anything runs.
        """
        *_, transcript = self.stream_transcript(source, words=words, instruction=instruction, cutting=cutting, **options)
        assert isinstance(transcript, Transcript)
        return transcript

    def stream_transcript(
        self,
        source: AudioSource,
        *,
        words: bool = False,
        instruction: str | None = None,
        cutting: Cutting | None = None,
        **options: Unpack[OptionArgs],
    ) -> Generator[Heard, None, None]:
        """As `transcribe`, as it is made: TextDelta, Segment for each piece that has ended, in order, then one Transcript.

        Closing the iterator ends it.
        """
        made = transcriber(self.runtime, source, words=words, instruction=instruction, cutting=cutting, options=options)
        return made.run()

    async def astream_transcript(
        self,
        source: AudioSource,
        *,
        words: bool = False,
        instruction: str | None = None,
        cutting: Cutting | None = None,
        **options: Unpack[OptionArgs],
    ) -> AsyncGenerator[Heard, None]:
        """As `stream_transcript`, for an event loop."""
        made = await self.runtime.aside(
            transcriber,
            self.runtime,
            source,
            words=words,
            instruction=instruction,
            cutting=cutting,
            options=options,
        )
        async with aclosing(made.arun()) as events:
            async for event in events:
                yield event

    def spoken(self, text: str, *, strict: bool = False) -> Spoken:
        """What `say` gives the voice of a text: its words, and those left out because the checkpoint has no sound for them.

        strict: the latter are a MessageError, as nothing to say is.

        Published checkpoints read any text; the small one has a few hundred words, into which numbers and signs are put.
        """
        return self.script(text, strict=strict).spoken

    def script(self, text: str, *, strict: bool = False) -> Script:
        """A text that was cut and put into words, to be said once; its `warnings` are known before it is.

        It takes some ms for a thousand words, so it belongs in a thread where an event loop waits. Arguments and errors as
        of `spoken`.
        """
        return self.runtime.script(text, strict=strict)

    def warm_up(self) -> None:
        """Speak a sentence to itself: the first answer then comes as soon as others."""
        self.runtime.warm_up()

    def session(
        self,
        *,
        system: str | None = None,
        voice: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        **options: Unpack[OptionArgs],
    ) -> Session:
        """A conversation that keeps its past, and reads what is said while it is being said.

        Args:
            system: what the model is told before the first turn.
            voice: speaks the answers; None for text alone.
            template_args: switches of the checkpoint's chat template, such as `{"enable_thinking": False}`.
            options: of every answer; see `Options`.

        Raises:
            InputError.
        """
        if voice is not None:
            self.runtime.check_voice(voice)
        return Session(self.runtime, system, voice, Options(**options), template_args)
