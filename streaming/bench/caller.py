"""A listener as a client of `/v1/realtime`: a microphone that never stops, and the server's events with their times."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from omni.errors import EngineError
from omni.streaming.audio.wire import FORMATS, Samples
from omni.streaming.bench.recordings import PIECE_LEN, PIECE_MS, RATE

Json: TypeAlias = dict[str, Any]

PCM = FORMATS["audio/pcm"]
SOUND = "response.output_audio.delta"
OPEN_SECONDS = 10.0
MARGIN_SECONDS = 60.0
"""How long nothing may come that is waited for."""


class CallError(EngineError):
    """A turn went wrong; the message says how."""


class Refused(CallError):
    """The server did not let the caller in."""


@dataclass(frozen=True)
class Place:
    """A server: "ws://host:port" or "wss://...", and the key that it wants."""

    url: str
    key: str | None = None


@dataclass(frozen=True)
class Told:
    """An event of the server's, and when it came, in seconds of `time.perf_counter`."""

    event: Json
    at: float

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def sound(self) -> bytes:
        """Of a SOUND, 16 bit samples at 24 kHz."""
        return b64decode(self.event["delta"])

    @property
    def seconds(self) -> float:
        """Of a SOUND."""
        return len(self.sound) / 2 / RATE


@dataclass
class Said:
    """Something that is being said. began, ended: when its first and its last piece were sent; infinite before that."""

    pieces: deque[bytes]
    began: float = float("inf")
    ended: float = float("inf")


@dataclass
class Order:
    """Whether events come in an order in which they mean something. faults: where they did not."""

    faults: list[str] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)
    _open: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """For each answer that has begun, the kinds of its content that may still come, with the words so far."""
    _speaking: str | None = None

    def take(self, event: Json) -> None:
        kind, id = event["type"], event.get("event_id")
        self._check(id is not None and id not in self._ids, f"{kind} has no event_id of its own")
        self._ids.add(str(id))
        if kind == "response.created":
            self._check(not self._open, "an answer began before the one before it had ended")
            self._open[event["response"]["id"]] = {}
        elif kind == "response.done":
            self._check(self._open.pop(event["response"]["id"], None) is not None, "an answer ended that had not begun")
        elif kind.startswith("response."):
            parts = self._open.get(event["response_id"])
            self._check(parts is not None, f"{kind} outside of its answer")
            self._take_part(event, {} if parts is None else parts)
        elif kind.startswith("input_audio_buffer.speech_"):
            started = kind.endswith("started")
            self._check(self._speaking == (None if started else event["item_id"]), f"{kind} out of turn")
            self._speaking = event["item_id"] if started else None

    def _take_part(self, event: Json, parts: dict[str, list[str]]) -> None:
        name, _, step = event["type"].rpartition(".")
        if event["type"] == "response.content_part.added":
            spoken = event["part"]["type"] == "audio"
            names = ("response.output_audio", "response.output_audio_transcript") if spoken else ("response.output_text",)
            parts.update({name: [] for name in names})
        elif step == "delta":
            self._check(name in parts, f"{event['type']} before its content began, or after its end")
            parts.setdefault(name, []).append("" if event["type"] == SOUND else event["delta"])
        elif step == "done" and name.startswith("response.output_") and name != "response.output_item":
            words = "".join(parts.pop(name, []))
            whole = event.get("transcript", event.get("text", ""))
            self._check(words == whole, f"{event['type']} says {whole!r}, and its deltas said {words!r}")

    def _check(self, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(fault)


class Caller:
    """One socket: `calling` opens it.

    Attributes:
        order: what was wrong with the order of events.
        late: by how many seconds each piece of the microphone was sent after it was due: the bench's own fault.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.order = Order()
        self.late: list[float] = []
        self._socket = socket
        self._told: asyncio.Queue[Told | CallError] = asyncio.Queue()
        self._saying: deque[Said] = deque()
        self._silence = _append(bytes(2 * PIECE_LEN))

    def say(self, utterance: Samples) -> Said:
        """Say float32 `[S]`, whole pieces, into the microphone from its next piece on, at the pace of speech."""
        pieces = utterance.reshape(-1, PIECE_LEN).astype(np.float32)
        self._saying.append(Said(deque(PCM.encode(piece) for piece in pieces)))
        return self._saying[-1]

    async def show(self, picture: bytes | None, text: str = "") -> None:
        """Show a picture, and write something, in one message."""
        content: list[Json] = []
        if picture is not None:
            content.append({"type": "input_image", "image_url": f"data:image/png;base64,{b64encode(picture).decode()}"})
        if text:
            content.append({"type": "input_text", "text": text})
        if content:
            await self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
            await self.until("conversation.item.done")

    async def send(self, kind: str, **fields: Any) -> None:
        await self._put(orjson.dumps({"type": kind, **fields}).decode())

    async def next(self, seconds: float = MARGIN_SECONDS) -> Told:
        """The next event. CallError: the server told of a fault, closed the socket, or let so many seconds pass."""
        try:
            async with asyncio.timeout(seconds):
                told = await self._told.get()
        except TimeoutError:
            raise CallError(f"nothing came for {seconds:.0f} seconds") from None
        if isinstance(told, CallError):
            raise told
        return told

    async def until(self, kind: str) -> Told:
        """The next event of this type; those before it are passed over."""
        while (told := await self.next()).type != kind:
            pass
        return told

    async def _put(self, text: str) -> None:
        try:
            await self._socket.send(text)
        except ConnectionClosed as e:
            raise CallError(f"the server closed the connection: {e}") from None

    async def listen(self) -> None:
        """Take what the server sends, until it is closed."""
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                at = time.perf_counter()
                event = orjson.loads(frame)
                if event["type"] == "error":
                    self._told.put_nowait(CallError(f"the server told of an error: {event['error']['message']}"))
                else:
                    self.order.take(event)
                    self._told.put_nowait(Told(event, at))
        except ConnectionClosed as e:
            self._told.put_nowait(CallError(f"the server closed the connection: {e}"))

    async def transmit(self) -> None:
        """Send the microphone's sound as it is heard, a piece at a time; what is late is made up for."""
        due = time.perf_counter()
        with suppress(CallError):  # of which `listen` tells
            while True:
                due += PIECE_MS / 1000
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                now = time.perf_counter()
                self.late.append(now - due)
                await self._put(self._next_piece(now))

    def _next_piece(self, now: float) -> str:
        if not self._saying:
            return self._silence
        said = self._saying[0]
        said.began = min(said.began, now)
        piece = said.pieces.popleft()
        if not said.pieces:
            said.ended = now
            self._saying.popleft()
        return _append(piece)


def _append(piece: bytes) -> str:
    return orjson.dumps({"type": "input_audio_buffer.append", "audio": b64encode(piece).decode()}).decode()


@asynccontextmanager
async def calling(place: Place) -> AsyncIterator[Caller]:
    """A spoken conversation whose turns the server ends. Refused where it does not begin."""
    headers = {"Authorization": f"Bearer {place.key}"} if place.key else {}
    try:
        socket = await connect(
            f"{place.url.rstrip('/')}/v1/realtime",
            additional_headers=headers,
            open_timeout=OPEN_SECONDS,
            max_size=None,
            compression=None,
            proxy=None,
        )
    except (OSError, InvalidHandshake, ValueError) as e:
        raise Refused(f"no conversation with {place.url}: {e}") from e
    caller = Caller(socket)
    tasks = [asyncio.create_task(caller.listen())]
    try:
        audio = {"input": {"turn_detection": {"type": "server_vad"}}}
        await caller.send("session.update", session={"type": "realtime", "output_modalities": ["audio"], "audio": audio})
        await caller.until("session.updated")
        tasks.append(asyncio.create_task(caller.transmit()))
        yield caller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await socket.close()
