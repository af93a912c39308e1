"""A scripted realtime server for the tests of the page: it hears loudness, and answers with a tone.

What it says depends on the words that are typed: "restart" ends the connection with 1012, "leave" with 1008, "refuse" gives
an error, "long" a long answer, "stall" an answer with a gap, anything else a short one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

PAGE = Path(__file__).parents[3] / "streaming" / "page"
CSP = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; img-src 'self' blob: data:"
RATE = 24000
PIECE = 2400
LOUD, PAUSE = 0.02, 0.5
HEARD = "What color is the circle?"
SHORT = "It is a red circle, and it stands in the middle."
LONG = "I see many things. " + "There is a circle beside a square, and a star above a heart. " * 6
SPEED = 14.0
"""Letters in a second of speech."""


def tone(seconds: float) -> Iterator[bytes]:
    """A tone that comes and goes like syllables, in pieces of 0.1 s."""
    at = np.arange(int(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 330 * at) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * at))
    data = (wave * 32767).astype("<i2")
    return (data[i : i + PIECE].tobytes() for i in range(0, len(data), PIECE))


@dataclass
class Script:
    """What the test sets, and what the page did.

    Attributes:
        events: of the page, in order; sessions: how many there were.
        health: status of /health; key: the one that opens the server; open: whether it lets anybody talk.
        can: what the model does beside reading and writing.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    sessions: int = 0
    health: int = 200
    key: str = ""
    open: bool = True
    can: set[str] = field(default_factory=lambda: {"hears", "sees", "speaks"})

    def reset(self) -> None:
        self.__dict__.update(vars(Script()))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


class Session:
    def __init__(self, socket: WebSocket, script: Script) -> None:
        self.socket, self.script = socket, script
        self.serial = 0
        self.config: dict[str, Any] = {}
        self.heard = self.quiet = self.loud = 0.0
        self.user = ""
        self.words = HEARD
        self.seen = 0
        self.answer: asyncio.Task[None] | None = None
        self.spoken: dict[str, str] = {}

    def name(self, kind: str) -> str:
        self.serial += 1
        return f"{kind}_{self.script.sessions}_{self.serial}"

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, "event_id": self.name("event"), **fields}))

    async def listen(self, data: bytes) -> None:
        """Speech begins with a loud piece and ends after a pause; without turn detection neither is told."""
        samples = np.frombuffer(data, "<i2") / 32768
        seconds = len(samples) / RATE
        self.heard += seconds
        loud = float(np.sqrt(np.mean(samples**2))) > LOUD
        self.quiet = 0.0 if loud else self.quiet + seconds
        self.loud = self.loud + seconds if loud else self.loud
        if not self.config["audio"]["input"]["turn_detection"]:
            return
        if not self.user and self.loud > 0.1:
            self.user = self.name("item")
            await self.tell("input_audio_buffer.speech_started", audio_start_ms=int(self.heard * 1000), item_id=self.user)
            await self.stop("turn_detected")
        elif self.user and self.quiet > PAUSE:
            await self.tell("input_audio_buffer.speech_stopped", audio_end_ms=int(self.heard * 1000), item_id=self.user)
            await self.commit()
            await self.respond()

    async def commit(self) -> None:
        item = self.user or self.name("item")
        self.user, self.loud, self.words = "", 0.0, HEARD
        await self.tell("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        for word in HEARD.split(" "):
            await self.tell(
                "conversation.item.input_audio_transcription.delta", item_id=item, content_index=0, delta=word + " "
            )
        await self.tell(
            "conversation.item.input_audio_transcription.completed",
            item_id=item,
            content_index=0,
            transcript=HEARD,
            usage={"type": "duration", "seconds": 1},
        )

    async def respond(self) -> None:
        self.answer = asyncio.create_task(self.speak(self.name("resp"), self.name("item")))

    async def speak(self, response: str, item: str) -> None:
        self.current = (response, item)
        spoken = self.config["output_modalities"] == ["audio"]
        text = LONG if "long" in self.words or "stall" in self.words else SHORT
        text = f"I was shown {self.seen} of your pictures. {text}" if self.seen else text
        where = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        await self.tell(
            "response.created",
            response={"id": response, "object": "realtime.response", "status": "in_progress", "output": []},
        )
        await asyncio.sleep(0.25)
        part = {"type": "audio", "transcript": ""} if spoken else {"type": "text", "text": ""}
        await self.tell("response.content_part.added", part=part, **where)
        self.spoken[item] = ""
        sound = tone(len(text) / SPEED)
        done = 0.0
        for at in range(0, len(text), 4):
            delta = text[at : at + 4]
            self.spoken[item] += delta
            kind = "response.output_audio_transcript.delta" if spoken else "response.output_text.delta"
            await self.tell(kind, delta=delta, **where)
            while spoken and done < (at + 4) / SPEED and (piece := next(sound, None)):
                await self.tell("response.output_audio.delta", delta=base64.b64encode(piece).decode(), **where)
                done += 0.1
                await asyncio.sleep(0.05)
            if "stall" in self.words and at == 40:
                await asyncio.sleep(2.5)
        if spoken:
            await self.tell("response.output_audio.done", **where)
        await self.end("completed", None)

    async def end(self, status: str, reason: str | None) -> None:
        response, item = self.current
        output = [{"id": item, "type": "message", "role": "assistant", "status": status, "content": []}]
        details = {"type": status, "reason": reason} if reason else None
        body = {"id": response, "object": "realtime.response", "status": status, "status_details": details, "output": output}
        await self.tell("response.done", response=body)
        self.answer = None

    async def stop(self, reason: str) -> None:
        if self.answer is None:
            return
        self.answer.cancel()
        with suppress(asyncio.CancelledError):
            await self.answer
        await self.end("cancelled", reason)

    async def take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                self.config = event["session"]
                await self.tell("session.updated", session=self.config)
            case "input_audio_buffer.append":
                await self.listen(base64.b64decode(event["audio"]))
            case "input_audio_buffer.clear":
                self.user, self.loud = "", 0.0
                await self.tell("input_audio_buffer.cleared")
            case "input_audio_buffer.commit":
                await self.commit()
            case "conversation.item.create":
                for part in event["item"]["content"]:
                    self.seen += part["type"] == "input_image"
                    self.words = part.get("text", self.words)
                if self.words in ("restart", "leave") and "id" in event["item"]:  # what is told again has none
                    await self.socket.close({"restart": 1012, "leave": 1008}[self.words], "you were here long enough")
            case "conversation.item.truncate":
                item, end = event["item_id"], event["audio_end_ms"]
                kept = self.spoken.get(item, "")[: int(end / 1000 * SPEED)]
                self.spoken[item] = kept.rpartition(" ")[0]
                await self.tell("conversation.item.truncated", item_id=item, content_index=0, audio_end_ms=end)
            case "conversation.item.retrieve":
                content = [{"type": "output_audio", "transcript": self.spoken.get(event["item_id"], "")}]
                item_ = {"id": event["item_id"], "type": "message", "role": "assistant", "content": content}
                await self.tell("conversation.item.retrieved", item=item_)
            case "response.create" if self.words == "refuse":
                problem = {"type": "invalid_request_error", "message": "there is no answer to that", "code": None}
                await self.tell("error", error={**problem, "param": None, "event_id": event["event_id"]})
            case "response.create":
                await self.respond()
            case "response.cancel":
                await self.stop("client_cancelled")


def create(script: Script) -> Starlette:
    """The page and what it talks to."""

    def allowed(key: str) -> bool:
        return not script.key or key == script.key

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"}, script.health)

    async def models(request: Request) -> Response:
        if not allowed(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        can = {name: name in script.can for name in ("hears", "sees", "speaks")}
        return JSONResponse({"object": "list", "data": [{"id": "scripted", "object": "model", "capabilities": can}]})

    async def voices(request: Request) -> Response:
        return JSONResponse({"voices": [{"id": name, "name": name} for name in ("Chelsie", "Ethan")]})

    async def realtime(socket: WebSocket) -> None:
        offered = socket.scope["subprotocols"]
        key = next((name for name in offered if name.startswith("openai-insecure-api-key.")), ".")
        if not allowed(key.partition(".")[2]) or not script.open:
            return await socket.close()
        await socket.accept("realtime")
        script.sessions += 1
        session = Session(socket, script)
        with suppress(WebSocketDisconnect, RuntimeError):
            await session.tell("session.created", session={"id": "sess_1", "type": "realtime", "model": "scripted"})
            while True:
                event = json.loads(await socket.receive_text())
                script.events.append(event)
                await session.take(event)
        if session.answer:
            session.answer.cancel()
        return None

    class Headers(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            response = await call_next(request)
            response.headers["content-security-policy"] = CSP
            response.headers["permissions-policy"] = "microphone=(self), camera=(self), display-capture=(self)"
            return response

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/audio/voices", voices),
        WebSocketRoute("/v1/realtime", realtime),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Headers)])
