"""A realtime socket in one event loop, with a client that a test drives and a model that answers what it is told to."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.websockets import WebSocket

from omni import Omni
from omni.errors import MessageError
from omni.events import AudioChunk, Capabilities, Done, Event, TextDelta, Transcript
from omni.session import Forgotten
from omni.streaming.realtime.connection import realtime
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Limits, Settings
from tests.streaming.talk import EVENT, Json, done, transcript

RATE = 24000
WAIT = 10.0
Step = Event | Transcript | Exception | asyncio.Event


def chunk(ms: int, value: float = 0.25) -> AudioChunk:
    return AudioChunk(np.full(RATE * ms // 1000, value, np.float32), RATE, 0)


class FakeSession:
    """Attributes:
    began: the messages that it began from; heard: samples that were appended since.
    over: its answer has ended; closed: before it was whole.
    """

    def __init__(self, omni: FakeOmni, voice: str | None) -> None:
        self._omni, self.voice = omni, voice
        self.tools: Sequence[Any] = ()
        self.forgotten = Forgotten()
        self.began: list[Any] = []
        self.heard: list[NDArray[np.float32]] = []
        self.options: dict[str, Any] = {}
        self.asked = self.over = self.closed = False
        self.interrupted: list[float] = []

    def begin(self, messages: Sequence[Any]) -> None:
        self.began = [*messages]

    def append_audio(self, samples: NDArray[np.float32], rate: int) -> None:
        self.heard.append(samples)

    async def arespond(self, **options: Any) -> AsyncGenerator[Event]:
        self.asked, self.options = True, options
        self._omni.asked.append(self)
        try:
            async for event in self._omni.play():
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.closed = True
            raise
        finally:
            self.over = True

    def interrupt(self, played_ms: float) -> str:
        if self.interrupted:
            raise MessageError("there is no answer to interrupt")
        self.interrupted.append(played_ms)
        return f"heard until {played_ms:g}"


class FakeOmni:
    """Answers with the next of its scripts: events, errors to be raised, and gates to wait at.

    Attributes:
        sessions: all that were made; asked: those that answered, in order.
        written: recordings that were written down, and how.
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self.voices = {"Chelsie": object(), "Ethan": object()}
        self.default_voice = "Chelsie"
        self.capabilities = Capabilities(hears=True, sees=True, speaks=True)
        self.budget = None
        self.scripts = [*scripts]
        self.transcript: Sequence[Step] = (TextDelta("What "), TextDelta("moves?"), transcript())
        self.sessions: list[FakeSession] = []
        self.asked: list[FakeSession] = []
        self.written: list[Any] = []

    def session(self, *, voice: str | None = None) -> FakeSession:
        self.sessions.append(FakeSession(self, voice))
        return self.sessions[-1]

    async def look(self, part: Any) -> None:
        """Every picture can be seen."""

    async def play(self) -> AsyncIterator[Event]:
        script = self.scripts.pop(0) if self.scripts else (TextDelta("Yes."), chunk(300), done())
        async for event in _played(script):
            yield event

    async def astream_transcript(self, source: Any, **options: Any) -> AsyncGenerator[Event | Transcript]:
        self.written.append((source, options))
        async for event in _played(self.transcript):
            yield event


async def _played(script: Sequence[Step]) -> AsyncIterator[Any]:
    for step in script:
        match step:
            case asyncio.Event():
                await step.wait()
            case Exception():
                raise step
            case _:
                await asyncio.sleep(0)
                yield step


class Client:
    """The client's end of a socket.

    Attributes:
        events: all that came, in order. closed: the code that the server closed with.
        accepted: the server's first message.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.events: list[Json] = []
        self.times: list[float] = []
        self.closed: int | None = None
        self.accepted: Json = {}
        self._up: asyncio.Queue[Json] = asyncio.Queue()
        self._down: asyncio.Queue[Json] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()

    def start(self, query: str = "", **scope: Any) -> asyncio.Task[None]:
        about = {
            "type": "websocket",
            "app": SimpleNamespace(state=SimpleNamespace(hub=self.hub)),
            "path": "/v1/realtime",
            "query_string": query.encode(),
            "headers": [],
            "subprotocols": [],
            "state": {},
            **scope,
        }
        self._up.put_nowait({"type": "websocket.connect"})
        return asyncio.create_task(realtime(WebSocket(about, self._up.get, self._send)))

    async def _send(self, message: Any) -> None:
        await self.reading.wait()
        match message["type"]:
            case "websocket.accept":
                self.accepted = message
            case "websocket.send":
                event = orjson.loads(message["text"])
                EVENT.validate_python(event)
                self.events.append(event)
                self.times.append(asyncio.get_running_loop().time())
                self._down.put_nowait(event)
            case "websocket.close":
                self.closed = message["code"]
                self._down.put_nowait({"type": "closed"})

    def send(self, type: str, /, **fields: Any) -> None:
        self.send_text(orjson.dumps({"type": type, **fields}).decode())

    def send_text(self, text: str) -> None:
        self._up.put_nowait({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._up.put_nowait({"type": "websocket.receive", "bytes": data})

    def leave(self) -> None:
        self._up.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def say(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})

    def append(self, ms: int) -> None:
        self.send("input_audio_buffer.append", audio=b64encode(bytes(ms * 48)).decode())

    async def next(self) -> Json:
        async with asyncio.timeout(WAIT):
            return await self._down.get()

    async def until(self, type: str) -> list[Json]:
        """Events up to the next one of this type."""
        events = [await self.next()]
        while events[-1]["type"] != type:
            assert events[-1]["type"] != "closed", [event["type"] for event in self.events]
            events.append(await self.next())
        return events


def sound_of(events: Sequence[Json]) -> bytes:
    return b"".join(b64decode(event["delta"]) for event in events if event["type"] == "response.output_audio.delta")


def run(
    test: Callable[[Client, FakeOmni], Any], *scripts: Sequence[Step], limits: Limits | None = None, query: str = ""
) -> None:
    """Run a test of one socket against a scripted model; all that it started is gone afterwards."""

    async def main() -> None:
        omni = FakeOmni(*scripts)
        async with opened(omni, limits, query) as client:
            await test(client, omni)

    asyncio.run(main())


@asynccontextmanager
async def opened(omni: FakeOmni, limits: Limits | None = None, query: str = "") -> AsyncIterator[Client]:
    hub = Hub(cast(Omni, omni), "omni", Settings(limits=limits or Limits()))
    client = Client(hub)
    server = client.start(query)
    try:
        assert (await client.next())["type"] == "session.created"
        yield client
        client.leave()
        async with asyncio.timeout(WAIT):
            await server
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        server.cancel()
        hub.close()


def done_event(events: Sequence[Json]) -> Json:
    """The response that the last event is the end of."""
    assert events[-1]["type"] == "response.done"
    response: Json = events[-1]["response"]
    return response


__all__ = [
    "AudioChunk",
    "Client",
    "Done",
    "FakeOmni",
    "TextDelta",
    "chunk",
    "done",
    "done_event",
    "opened",
    "run",
    "sound_of",
]
