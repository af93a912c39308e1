"""A client and an engine for the realtime protocol, without either: events in, events and commands out, all checked."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, TypeVar

from openai.types.realtime import (
    RealtimeServerEvent,
    RealtimeSessionCreateRequest,
    RealtimeSessionCreateResponse,
    RealtimeTranscriptionSessionCreateRequest,
)
from pydantic import BaseModel, TypeAdapter

from omni.events import Capabilities, Done, FinishReason, Limit, TextDelta, Timings, Usage
from omni.streaming.audio.turn_detection import SpeechEvent
from omni.streaming.realtime.effects import Answer, Close, Cut, Effect, Hear, Release, Send, Stop, Transcribe
from omni.streaming.realtime.protocol import Protocol
from omni.streaming.realtime.session_config import Bounds
from omni.streaming.realtime.state import Setup
from omni.streaming.settings import Limits

Json = dict[str, Any]
E = TypeVar("E")

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
USAGE = Usage(prompt_tokens=30, image_tokens=4, video_tokens=0, audio_tokens=6, text_tokens=5, codec_tokens=40)
TOOL = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
}
SESSION_EXTRAS = {"id", "object", "expires_at"}
"""Fields that a session has and the model of what a client may send has not."""


SESSIONS = (RealtimeSessionCreateRequest, RealtimeTranscriptionSessionCreateRequest)


def done(reason: FinishReason = "stop") -> Done:
    limits: tuple[Limit, ...] = ("text",) if reason == "length" else ()
    return Done(reason, limits, 0, USAGE, Timings(0, 0, 0, 0, 1, 1), (), ())


def extras(model: object) -> Iterator[str]:
    """Fields that a model's class does not know, at any depth."""
    match model:
        case BaseModel():
            known = SESSION_EXTRAS if isinstance(model, SESSIONS) else set()
            yield from (model.model_extra or {}).keys() - known
            for value in dict(model).values():
                yield from extras(value)
        case list():
            for value in model:
                yield from extras(value)


def counted() -> Callable[[str], str]:
    """Ids that say what they are of and which."""
    counters: dict[str, count[int]] = defaultdict(lambda: count(1))
    return lambda kind: f"{kind}_{next(counters[kind])}"


def silence(ms: int, format: str = "audio/pcm") -> bytes:
    return bytes(ms * 48) if format == "audio/pcm" else b"\xff" * (ms * 8)


class Talk:
    """One session.

    Attributes:
        now: on the protocol's clock.
        events: all that were sent, checked against the published models.
        commands: all other effects.
    """

    def __init__(
        self,
        *,
        kind: Any = "realtime",
        voices: tuple[str, ...] = ("Chelsie", "Ethan"),
        hears: bool = True,
        sees: bool = True,
        limits: Limits | None = None,
        session: Json | None = None,
    ) -> None:
        can = Capabilities(hears, sees, bool(voices))
        bounds = Bounds(can, voices, voices[0] if voices else None, limits or Limits())
        setup = Setup(("omni",), bounds, 2_000_000_000, kind)
        self.now = 100.0
        self.protocol = Protocol(setup, self.now, counted())
        self.events: list[Json] = []
        self.commands: list[Effect] = []
        self.take(self.protocol.open(session))

    def take(self, effects: list[Effect]) -> list[Json]:
        """Check and keep effects; gives the events among them."""
        events = [effect.event for effect in effects if isinstance(effect, Send)]
        for event in events:
            parsed = EVENT.validate_python(event)
            assert parsed.type == event["type"]
            assert not list(extras(parsed)), event
            if event["type"].startswith("session.") and event["session"]["type"] == "realtime":
                RealtimeSessionCreateResponse.model_validate(event["session"])
        self.events += events
        self.commands += [effect for effect in effects if not isinstance(effect, Send)]
        return events

    def client(self, type: str, /, media: dict[str, bytes] | None = None, **fields: Any) -> list[Json]:
        return self.take(self.protocol.receive({"type": type, **fields}, self.now, media))

    def update(self, **session: Any) -> list[Json]:
        return self.client("session.update", session={"type": "realtime", **session})

    def manual(self) -> None:
        """The client tells when a turn ends."""
        self.update(audio={"input": {"turn_detection": None}})

    def append(self, ms: int, format: str = "audio/pcm") -> list[Json]:
        return self.client("input_audio_buffer.append", audio=b64encode(silence(ms, format)).decode())

    def speech(self, *events: SpeechEvent) -> list[Json]:
        return [told for event in events for told in self.take(self.protocol.speech(event, self.now))]

    def say(self, text: str, **item: Any) -> str:
        """The user writes something; gives the item's id."""
        content = [{"type": "input_text", "text": text}]
        events = self.client(
            "conversation.item.create", item={"type": "message", "role": "user", "content": content, **item}
        )
        assert [event["type"] for event in events] == ["conversation.item.added", "conversation.item.done"]
        id: str = events[0]["item"]["id"]
        return id

    def respond(self, **response: Any) -> str:
        """Ask for an answer; gives its id."""
        events = self.client("response.create", response=response)
        assert [event["type"] for event in events] == ["response.created"], events
        id: str = events[0]["response"]["id"]
        return id

    def text(self, response: str, *pieces: str) -> list[Json]:
        return [told for piece in pieces for told in self.take(self.protocol.answered(response, TextDelta(piece), self.now))]

    def sound(self, response: str, ms: int, format: str = "audio/pcm") -> list[Json]:
        return self.take(self.protocol.answered(response, silence(ms, format), self.now))

    def finish(self, response: str, reason: FinishReason = "stop") -> list[Json]:
        return self.take(self.protocol.answered(response, done(reason), self.now))

    def all(self, kind: type[E]) -> list[E]:
        return [command for command in self.commands if isinstance(command, kind)]

    def last(self, kind: type[E]) -> E:
        return self.all(kind)[-1]

    @property
    def items(self) -> list[Any]:
        """The conversation, in order."""
        return list(self.protocol._state.conversation)


def types(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


def error(events: list[Json]) -> Json:
    """The one error that events consist of."""
    assert types(events) == ["error"], events
    found: Json = events[0]["error"]
    return found


__all__ = ["Answer", "Close", "Cut", "Hear", "Release", "Stop", "Talk", "Transcribe", "done", "error", "silence", "types"]
