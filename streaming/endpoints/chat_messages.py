"""OpenAI's chat messages, and what omni is given for them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, assert_never

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from omni.streaming.audio.wire import unbase64
from omni.streaming.fields import Kind, Strict, check_medium
from omni.streaming.problems import Problem, refused, too_large
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import fetch, verify
from omni.streaming.settings import Limits

MOST_BYTES_A_TOKEN = 16
"""No language has longer tokens on the whole: a text that is too long by this measure is not even cut into tokens."""


class Part(Strict):
    prompt_cache_breakpoint: Any = Field(default=None, exclude=True)  # what was read before is always kept


class TextPart(Part):
    type: Literal["text"]
    text: str


class RefusalPart(Part):
    type: Literal["refusal"]
    refusal: str


class ImageURL(Strict):
    """`detail` is accepted, and pictures are always read in the detail that the model was taught with."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Part):
    type: Literal["image_url"]
    image_url: ImageURL


class URL(Strict):
    url: str


class AudioURLPart(Part):
    type: Literal["audio_url"]
    audio_url: URL


class VideoURLPart(Part):
    type: Literal["video_url"]
    video_url: URL


class InputAudio(Strict):
    """A sound file as base64; what it is shows in its first bytes."""

    data: str
    format: Literal["wav", "mp3", "ogg", "opus", "flac", "m4a", "mp4", "webm"]


class InputAudioPart(Part):
    type: Literal["input_audio"]
    input_audio: InputAudio


MediaPart: TypeAlias = ImagePart | InputAudioPart | AudioURLPart | VideoURLPart
UserPart: TypeAlias = Annotated[TextPart | MediaPart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


def _parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


UserContent: TypeAlias = Annotated[
    list[UserPart], Field(min_length=1), BeforeValidator(_parts, json_schema_input_type=str | list[UserPart])
]
AssistantContent: TypeAlias = Annotated[
    list[AssistantPart], BeforeValidator(_parts, json_schema_input_type=str | list[AssistantPart])
]
TextContent: TypeAlias = Annotated[
    list[TextPart], Field(min_length=1), BeforeValidator(_parts, json_schema_input_type=str | list[TextPart])
]


class Named(Strict):
    """A message; the model is told no names."""

    name: None = None


class SystemMessage(Named):
    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(Named):
    role: Literal["user"]
    content: UserContent


def _arguments(text: str) -> str:
    try:
        if not isinstance(json.loads(text), dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise ValueError("give a JSON object as a string") from None
    return text


class CalledFunction(Strict):
    name: str
    arguments: Annotated[str, AfterValidator(_arguments)]


class ToolCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class SpokenBefore(BaseModel):
    """An earlier spoken answer, by its id; the rest of what was answered may be sent along."""

    model_config = ConfigDict(strict=True)
    id: str


class AssistantMessage(Named):
    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    audio: SpokenBefore | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: None = None
    annotations: Any = None


class ToolMessage(Strict):
    role: Literal["tool"]
    tool_call_id: str
    content: TextContent
    name: str | None = None


Message: TypeAlias = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


@dataclass
class Spoken:
    """What was said in the last spoken answers, by ids that nobody can guess; the oldest go first.

    Attributes:
        most: answers that are kept.
        seconds: for how long.
    """

    most: int = 256
    seconds: int = 3600
    _said: OrderedDict[str, tuple[int, str]] = field(default_factory=OrderedDict)

    @staticmethod
    def new_id() -> str:
        return f"audio_{secrets.token_hex(16)}"

    def keep(self, spoken_id: str, text: str) -> int:
        """Until when it may be asked for, in seconds since 1970."""
        expires_at = int(time.time()) + self.seconds
        self._said[spoken_id] = expires_at, text
        while len(self._said) > self.most:
            self._said.popitem(last=False)
        return expires_at

    def text(self, spoken_id: str, param: str) -> str:
        """Problem where it is not kept, or no longer."""
        expires_at, text = self._said.get(spoken_id, (0, ""))
        if expires_at <= time.time():
            raise refused(
                param,
                "no spoken answer is kept under this id; it may have expired: send its transcript as content",
                "audio_not_found",
            )
        return text


def check_messages(messages: Sequence[Message], limits: Limits) -> None:
    """Problem where there are too many messages or media, too much text, or a tool's result answers no call."""
    if not 1 <= len(messages) <= limits.items:
        raise refused("messages", f"there are {len(messages)}; give 1 to {limits.items}")
    num_media, num_bytes, called = 0, 0, set[str]()
    for i, message in enumerate(messages):
        for part in message.content or []:
            num_media += not isinstance(part, (TextPart, RefusalPart))
            num_bytes += len(_text(part).encode()) if isinstance(part, (TextPart, RefusalPart)) else 0
        if isinstance(message, AssistantMessage):
            called |= {call.id for call in message.tool_calls or []}
            num_bytes += sum(len(call.function.arguments) for call in message.tool_calls or [])
        elif isinstance(message, ToolMessage) and message.tool_call_id not in called:
            raise refused(f"messages[{i}].tool_call_id", "no call before it has this id; send the assistant's message too")
    if num_media > limits.media_parts:
        raise refused("messages", f"there are {num_media} pictures, clips and sounds; {limits.media_parts} are allowed")
    if num_bytes > limits.tokens * MOST_BYTES_A_TOKEN:
        raise Problem(
            f"the messages have {num_bytes} bytes of text, more than any context holds; shorten them",
            param="messages",
            code="context_length_exceeded",
        )


async def to_omni(hub: Hub, messages: Sequence[Message], spoken: Spoken) -> list[dict[str, Any]]:
    """Messages as `Omni.generate` takes them, their media fetched, verified and given as bytes; raises Problem."""
    check_messages(messages, hub.settings.limits)
    reader = _Reader(hub, spoken, hub.settings.limits.body_bytes)
    return [await reader.message(message, f"messages[{i}]") for i, message in enumerate(messages)]


@dataclass
class _Reader:
    """Attributes:
    room: bytes of media that one request may still bring.
    """

    hub: Hub
    spoken: Spoken
    room: int

    async def message(self, message: Message, where: str) -> dict[str, Any]:
        match message:
            case UserMessage():
                parts = [await self._part(part, f"{where}.content[{i}]") for i, part in enumerate(message.content)]
                return {"role": "user", "content": parts}
            case AssistantMessage():
                return self._assistant(message, where)
            case ToolMessage():
                return {"role": "tool", "content": _join(message.content)}
            case SystemMessage():
                return {"role": "system", "content": _join(message.content)}

    def _assistant(self, message: AssistantMessage, where: str) -> dict[str, Any]:
        text = _join(message.content or []) or message.refusal or ""
        if message.audio:
            text = text or self.spoken.text(message.audio.id, f"{where}.audio.id")
        elif message.content is None and message.refusal is None and not message.tool_calls:
            raise refused(f"{where}.content", "an answer without content needs an audio id or tool_calls")
        if not message.tool_calls:
            return {"role": "assistant", "content": text}
        calls = [call.model_dump() for call in message.tool_calls]
        return {"role": "assistant", "content": text, "tool_calls": calls}

    async def _part(self, part: TextPart | MediaPart, where: str) -> dict[str, Any]:
        match part:
            case TextPart():
                return {"type": "text", "text": part.text}
            case ImagePart():
                return await self._fetched(part.image_url.url, "image", f"{where}.image_url.url")
            case AudioURLPart():
                return await self._fetched(part.audio_url.url, "audio", f"{where}.audio_url.url")
            case VideoURLPart():
                return await self._fetched(part.video_url.url, "video", f"{where}.video_url.url")
            case InputAudioPart():
                param = f"{where}.input_audio.data"
                check_medium(self.hub.omni.capabilities, "audio", param)
                most = self.hub.settings.limits.media_bytes
                data = await asyncio.to_thread(unbase64, part.input_audio.data, most, param)
                return self._medium("audio", await verify(self.hub, data, "audio", param), param)
            case _:
                assert_never(part)

    async def _fetched(self, url: str, kind: Kind, param: str) -> dict[str, Any]:
        check_medium(self.hub.omni.capabilities, kind, param)
        return self._medium(kind, await fetch(self.hub, url, kind, param), param)

    def _medium(self, kind: Kind, data: bytes, param: str) -> dict[str, Any]:
        self.room -= len(data)
        if self.room < 0:
            most = self.hub.settings.limits.body_bytes
            raise too_large(param, f"all media up to here are more than the {most} bytes that one request may bring")
        return {"type": kind, kind: data}


def _text(part: TextPart | RefusalPart) -> str:
    return part.text if isinstance(part, TextPart) else part.refusal


def _join(parts: Sequence[TextPart | RefusalPart]) -> str:
    return "".join(map(_text, parts))
