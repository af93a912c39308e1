"""The server with a model that says what a script has, and stamps when: `python -m omni.streaming.bench.script STEPS`.

STEPS is a script as JSON. It prints the port that it listens at, serves until its standard input ends, and then prints what
it stamped as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni.events import AudioChunk, Capabilities, Done, Event, TextDelta, Timings, Usage
from omni.session import Forgotten
from omni.streaming.serve import bind, server_of
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Settings

if TYPE_CHECKING:
    from omni import Budget, Omni

RATE = 24000
NAME = "scripted"


@dataclass(frozen=True)
class Step:
    """After so many seconds the model makes so many seconds of sound; words where they are 0."""

    after: float
    sound: float


@dataclass(frozen=True)
class Made:
    """Something that the model made. number: of all that it made; answer: of all its answers."""

    number: int
    answer: int
    sound: float
    at: float


@dataclass(frozen=True)
class Sent:
    """A frame with something of that number; at: it was handed to the socket."""

    number: int
    sound: float
    at: float


Script: TypeAlias = Sequence[Step]

STEADY_STEPS, STEADY_SOUND = 50, 0.1
AHEAD_SOUND, NUM_WORDS, WORDS_APART = 3.5, 8, 0.1


def timed(seed: int = 0) -> Script:
    """First sound as it is heard, for the server's own time on each chunk; then much at once, and words behind it.

    The times of the first are uneven, or they would meet the microphone's pieces, which are even, always or never.
    """
    rng = Random(seed)
    steady = [Step(rng.uniform(0.5, 1.5) * STEADY_SOUND, STEADY_SOUND) for _ in range(STEADY_STEPS)]
    return [*steady, Step(STEADY_SOUND, AHEAD_SOUND), *[Step(WORDS_APART, 0.0)] * NUM_WORDS]


LONG: Script = [Step(0.1, 0.0), Step(0.1, 20.0)]
"""Sound enough for anybody to interrupt it."""


def number_of(sound: bytes) -> int:
    """Which chunk a piece of sound, 16 bit, is of: the model writes it into every sample."""
    return int(np.frombuffer(sound, "<i2", 1)[0])


class Scripted:
    """Stands in for `Omni`. What it makes comes from a thread, as from the engine's; made: all of it."""

    budget: Budget | None = None
    capabilities = Capabilities(hears=True, sees=True, speaks=True)
    default_voice = NAME

    def __init__(self, script: Script) -> None:
        self.voices = {NAME: None}
        self.script = script
        self.made: list[Made] = []
        self._numbers, self._answers = count(1), count()

    def ping(self, timeout: float) -> bool:
        return True

    def apart(self, salt: str) -> Scripted:
        return self

    async def look(self, part: object) -> None:
        """All that is shown is fine."""

    def session(self, *, voice: str | None = None) -> ScriptedSession:
        return ScriptedSession(self)

    def play(self, tell: Any, ended: threading.Event) -> None:
        """Make one answer. tell: takes each event, in this thread; ended: nobody wants more."""
        answer, start = next(self._answers), 0
        for step in self.script:
            if ended.wait(step.after):
                return
            number, length = next(self._numbers), round(step.sound * RATE)
            chunk = np.full(length, np.float32(number / 32768))
            event = AudioChunk(chunk, RATE, start) if length else TextDelta(f"{number} ")
            start += length
            self.made.append(Made(number, answer, step.sound, time.perf_counter()))
            tell(event)
        tell(Done("stop", (), 0, Usage(0, 0, 0, 0, 0, 0), Timings(0, 0, None, None, 0, start / RATE), (), ()))


class ScriptedSession:
    """A conversation whose every turn is answered by the script."""

    def __init__(self, model: Scripted) -> None:
        self.tools: Sequence[Any] = ()
        self.forgotten = Forgotten()
        self._model = model

    def begin(self, messages: Iterable[Any]) -> None:
        """The script does not depend on it."""

    def append_audio(self, samples: Any, rate: int) -> None:
        """The script does not depend on it."""

    def interrupt(self, played_ms: float) -> str:
        return ""

    async def arespond(self, **options: Any) -> AsyncGenerator[Event]:
        loop, ended = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(events.put_nowait, event)

        threading.Thread(target=self._model.play, args=(tell, ended)).start()
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, Done):
                    return
        finally:
            ended.set()


class Stamped:
    """An application whose sockets' frames are stamped when they are handed over; they are read afterwards.

    Not when they have been written: on one machine their reader often wakes, and runs, before the writer goes on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._frames: list[tuple[float, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "websocket.send":
                self._frames.append((time.perf_counter(), message["text"]))
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "websocket" else send)

    def sent(self) -> list[Sent]:
        """What the frames held of what the model made."""
        out = []
        for at, text in self._frames:
            event = orjson.loads(text)
            if event["type"] == "response.output_audio.delta":
                sound = b64decode(event["delta"])
                out.append(Sent(number_of(sound), len(sound) / 2 / RATE, at))
            elif event["type"] == "response.output_audio_transcript.delta":
                out.append(Sent(int(event["delta"]), 0.0, at))
        return out


def main(steps: str) -> None:
    model = Scripted([Step(**step) for step in orjson.loads(steps)])
    with bind(Settings(port=0)) as listener:
        server = server_of(Hub(cast("Omni", model), NAME))
        stamped = server.config.loaded_app = Stamped(server.config.loaded_app)

        def end() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=end, daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])
    told = {"made": [asdict(each) for each in model.made], "sent": [asdict(each) for each in stamped.sent()]}
    print(orjson.dumps(told).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
