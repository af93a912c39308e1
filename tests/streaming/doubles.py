"""A server on this machine for a test's HTTP endpoints, and a runtime that says what it is told to."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray
from openai import DefaultHttpxClient, OpenAI

from omni import (
    AudioChunk,
    Budget,
    Capabilities,
    Cutting,
    Done,
    Event,
    Omni,
    Segment,
    TextDelta,
    Timings,
    Transcript,
    Usage,
    Word,
)
from omni.errors import MessageError
from omni.events import TokenLogprob
from omni.script.wording import Spoken
from omni.streaming.serve import bind, server_of
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Settings

MODEL = "omni-small"
MEDIA = Path(__file__).parents[2] / "demos" / "media"
RATE = 24000


def hub_of(omni: object, settings: Settings | None = None) -> Hub:
    return Hub(cast(Omni, omni), MODEL, settings or Settings(), is_bundled=True)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    with bind(Settings(port=0)) as listener:
        server = server_of(hub)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def openai_of(address: str) -> Iterator[OpenAI]:
    with (
        DefaultHttpxClient(trust_env=False, timeout=60) as http,
        OpenAI(api_key="-", base_url=f"{address}/v1", http_client=http, max_retries=0) as client,
    ):
        yield client


def data_url(name: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((MEDIA / name).read_bytes()).decode()}"


def decoded(data: bytes) -> NDArray[np.float32]:
    """A sound file as any player decodes it: mono, with the rate checked."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler("flt", "mono", RATE)
    out = [piece for frame in [*frames, None] for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in out])


def done(finish_reason: str = "stop", limits: tuple[Any, ...] = (), **used: int) -> Done:
    usage = {
        "prompt_tokens": 10,
        "image_tokens": 0,
        "video_tokens": 0,
        "audio_tokens": 0,
        "text_tokens": 3,
        "codec_tokens": 0,
    }
    timings = Timings(media=0, prefill=0, first_text=0, first_audio=None, total=0, audio=0)
    return Done(cast(Any, finish_reason), limits, 0, Usage(**{**usage, **used}), timings, (1, 2, 3), ())


def transcript(text: str = "", *segments: Segment, warnings: tuple[str, ...] = (), **used: int) -> Transcript:
    return Transcript(text, segments, 2.0, done("stop", (), **used).usage, warnings)


def segment(text: str, start: float = 0.0, end: float = 1.0, words: tuple[Word, ...] | None = None) -> Segment:
    return Segment(text, start, end, words, (1, 2, 3), (TokenLogprob(b"Yes", -0.5),), 0.1)


def sound(seconds: float = 0.5) -> AudioChunk:
    wave = 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE)
    return AudioChunk(wave.astype(np.float32), RATE, 0)


class Scripted:
    """Stands in for `Omni`.

    Args:
        script: what each answer consists of; an exception is raised, and at None it hangs.

    Attributes:
        asked: the arguments of each call.
        hears, sees, calls: what it can do; it speaks where it has voices.
        salts: of those for whom it was set apart.
        begun: set when an answer has begun.
        ended: set when an answer has been closed, however it ended.
    """

    sample_rate = RATE
    voices = {"Chelsie": None, "Ethan": None}  # noqa: RUF012
    default_voice = "Chelsie"
    budget = Budget()
    cutting = Cutting(longest=30, silence=1)

    hears = sees = calls = True

    def __init__(self, *script: Event | Segment | Transcript | Exception | None) -> None:
        self._events: Sequence[Event | Segment | Transcript | Exception | None] = script or (TextDelta("Yes."), done())
        self.asked: list[dict[str, Any]] = []
        self.salts: list[str] = []
        self.begun, self.ended = threading.Event(), threading.Event()

    def apart(self, salt: str) -> Scripted:
        self.salts.append(salt)
        return self

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.hears, self.sees, bool(self.voices), self.calls)

    async def astream(self, messages: Any, **options: Any) -> AsyncGenerator[Event]:
        self.asked.append({"messages": messages, **options})
        async for event in self._answer():
            yield event

    async def astream_transcript(self, source: Any, **options: Any) -> AsyncGenerator[Any]:
        self.asked.append({"source": source, **options})
        async for event in self._answer():
            yield event

    def script(self, text: str, *, strict: bool = False) -> Spoken:
        if not text.strip(" .\n"):
            raise MessageError("there is no text to say")
        return Spoken(text)

    async def asay(self, text: Spoken | AsyncIterable[str], **options: Any) -> AsyncGenerator[Event]:
        said = text.text if isinstance(text, Spoken) else "".join([piece async for piece in text])
        self.asked.append({"text": said, **options})
        async for event in self._answer():
            yield event

    async def _answer(self) -> AsyncGenerator[Any]:
        try:
            for item in self._events:
                if item is None:
                    self.begun.set()
                    await asyncio.Event().wait()
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            self.ended.set()
