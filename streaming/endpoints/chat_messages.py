"""OpenAI's chat messages, and what omni is given for them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, assert_never, get_args

from pydantic import AliasChoices, BeforeValidator, Field

from omni.streaming.audio.wire import unbase64
from omni.streaming.fields import Each, Fields, JsonObject, Kind, check_medium
from omni.streaming.problems import Problem, refused, too_large
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import checked, fetch
from omni.streaming.settings import Limits

MOST_BYTES_A_TOKEN = 16
"""No language has longer tokens on the whole: a text that is too long by this measure is not even cut into tokens."""

MOST_PARTS = 1024
"""Of one message."""


class Part(Fields):
    taken = frozenset({"prompt_cache_breakpoint", "cache_control", "uuid", "annotations", "index", "id"})


class TextPart(Part):
    type: Literal["text"]
    text: str


class RefusalPart(Part):
    type: Literal["refusal"]
    refusal: str


class URL(Fields):
    """`detail` is accepted, and pictures are always read in the detail that the model was taught with."""

    taken = frozenset({"detail", "format", "mime_type", "uuid"})
    url: str


class InputAudio(Fields):
    """A sound file as base64; what it is shows in its first bytes, whatever its format is called."""

    taken = frozenset({"format", "mime_type", "uuid"})
    data: str


def _url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


Place: TypeAlias = Annotated[URL, BeforeValidator(_url, json_schema_input_type=URL | str)]


Count: TypeAlias = Annotated[int, Field(ge=1)]
Start: TypeAlias = Annotated[float, Field(ge=0)]
End: TypeAlias = Annotated[float, Field(gt=0)]


def _named(*names: str) -> Any:
    """A field that may come by each of these names."""
    return Field(default=None, validation_alias=AliasChoices(*names))


class Pixels(Fields):
    """How large a picture or a clip's frames are shown to the model, in pixels; see `Omni.generate`."""

    min_pixels: Count | None = None
    max_pixels: Count | None = None
    resized_height: Count | None = None
    resized_width: Count | None = None


class Frames(Pixels):
    """Which frames of a clip are looked at; see `Omni.generate`.

    Attributes:
        audio_in_video: hear the sound of the clip; None where it has one.
    """

    total_pixels: Count | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    num_frames: Count | None = _named("num_frames", "nframes")
    min_frames: Count | None = None
    max_frames: Count | None = None
    audio_in_video: bool | None = _named("audio_in_video", "use_audio_in_video")


class ImagePart(Part, Pixels):
    taken = Part.taken | {"detail"}
    type: Literal["image_url"]
    image_url: Place


class VideoURLPart(Part, Frames):
    taken = Part.taken | {"raw_fps"}
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {"sample_fps": ()}
    type: Literal["video_url"]
    video_url: Place
    start: Start | None = _named("start", "video_start")
    end: End | None = _named("end", "video_end")


class Listened(Part):
    """Which seconds of a sound are heard."""

    start: Start | None = _named("start", "audio_start")
    end: End | None = _named("end", "audio_end")


class AudioURLPart(Listened):
    type: Literal["audio_url"]
    audio_url: Place


class InputAudioPart(Listened):
    type: Literal["input_audio"]
    input_audio: InputAudio


MediaPart: TypeAlias = ImagePart | InputAudioPart | AudioURLPart | VideoURLPart
KINDS = get_args(Kind)
OTHER_NAMES = {"input_text": "text", "output_text": "text", "input_image": "image_url"}
"""Kinds of parts as the Responses API calls them."""


def _part(part: object) -> object:
    """A part in the chat's own form: a bare string is text, and a file is what its data URL says."""
    match part:
        case {"type": "file", "file": {"file_data": str(url)}, **rest} if (kind := url[5:].partition("/")[0]) in KINDS:
            return {"type": f"{kind}_url", f"{kind}_url": url, **rest}
        case str():
            return {"type": "text", "text": part}
        case {"type": str(kind), **rest} if kind in OTHER_NAMES:
            return {"type": OTHER_NAMES[kind], **rest}
        case _:
            return part


def _parts(content: object) -> object:
    return [_part(part) for part in content] if isinstance(content, list) else [_part(content)]


UserPart: TypeAlias = Annotated[TextPart | MediaPart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
UserContent: TypeAlias = Annotated[
    Each[UserPart], Field(max_length=MOST_PARTS), BeforeValidator(_parts, json_schema_input_type=str | list[UserPart | str])
]
AssistantContent: TypeAlias = Annotated[
    Each[AssistantPart],
    Field(max_length=MOST_PARTS),
    BeforeValidator(_parts, json_schema_input_type=str | list[AssistantPart | str]),
]
TextContent: TypeAlias = Annotated[
    Each[TextPart], Field(max_length=MOST_PARTS), BeforeValidator(_parts, json_schema_input_type=str | list[TextPart | str])
]


class Turn(Fields):
    """A message. The model is told no names, and what else clients send back of an answer asks for nothing."""

    taken = frozenset(
        {
            *(
                "name",
                "uuid",
                "id",
                "index",
                "parsed",
                "annotations",
                "cache_control",
                "metadata",
                "created_at",
                "timestamp",
            ),
            *("provider_specific_fields", "thinking_blocks", "finish_reason", "logprobs", "status"),
        }
    )


class SystemMessage(Turn):
    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(Turn):
    role: Literal["user"]
    content: UserContent


class CalledFunction(Fields):
    taken = frozenset({"parsed_arguments"})
    name: str
    arguments: JsonObject = "{}"


class ToolCall(Fields):
    taken = frozenset({"index", "provider_specific_fields", "extra_content", "cache_control"})
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class SpokenBefore(Fields):
    """An earlier spoken answer, by its id; the rest of what was answered may be sent along."""

    taken = frozenset({"data", "expires_at", "transcript", "format", "voice"})
    id: str


class AssistantMessage(Turn):
    """Attributes:
    reasoning_content: what it thought, for templates that show it; reasoning: the same by another name.
    function_call: a call as it was before there were tools.
    """

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    audio: SpokenBefore | None = None
    tool_calls: Each[ToolCall] | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ToolMessage(Turn):
    role: Literal["tool"]
    tool_call_id: str
    content: TextContent = Field(default_factory=list)


class FunctionMessage(Turn):
    """A result as it was before there were tools: of the call before it."""

    role: Literal["function"]
    name: str
    content: TextContent = Field(default_factory=list)


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


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
            num_bytes += len(message.function_call.arguments) if message.function_call else 0
            num_bytes += len((message.reasoning_content or message.reasoning or "").encode())
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


async def to_omni(
    hub: Hub, messages: Sequence[Message], spoken: Spoken, looking: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Messages as `Omni.generate` takes them, their media fetched, verified and given as bytes; raises Problem.

    looking: how pictures and clips are looked at that do not say so themselves, by the fields of their parts.
    """
    await asyncio.to_thread(check_messages, messages, hub.settings.limits)
    reader = _Reader(hub, spoken, hub.settings.limits.body_bytes, looking or {})
    read = []
    for i, message in enumerate(messages):
        read.append(await reader.message(message, f"messages[{i}]"))
        await asyncio.sleep(0)  # there may be thousands
    return read


@dataclass
class _Reader:
    """Attributes:
    room: bytes of media that one request may still bring.
    """

    hub: Hub
    spoken: Spoken
    room: int
    looking: Mapping[str, Any]

    async def message(self, message: Message, where: str) -> dict[str, Any]:
        match message:
            case UserMessage():
                parts = [await self._part(part, f"{where}.content[{i}]") for i, part in enumerate(message.content)]
                return {"role": "user", "content": parts}
            case AssistantMessage():
                return self._assistant(message, where)
            case ToolMessage() | FunctionMessage():
                return {"role": "tool", "content": _join(message.content)}
            case SystemMessage():
                return {"role": "system", "content": _join(message.content)}

    def _assistant(self, message: AssistantMessage, where: str) -> dict[str, Any]:
        text = _join(message.content or []) or message.refusal or ""
        functions = [call.function for call in message.tool_calls or []]
        functions += [message.function_call] if message.function_call else []
        thought = message.reasoning_content or message.reasoning
        if message.audio:
            text = text or self.spoken.text(message.audio.id, f"{where}.audio.id")
        elif message.content is None and message.refusal is None and not functions and not thought:
            raise refused(f"{where}.content", "an answer without content needs an audio id or tool_calls")
        said: dict[str, Any] = {"role": "assistant", "content": text}
        if thought:
            said["reasoning_content"] = thought
        if functions:
            said["tool_calls"] = [{"type": "function", "function": function.model_dump()} for function in functions]
        return said

    async def _part(self, part: TextPart | MediaPart, where: str) -> dict[str, Any]:
        match part:
            case TextPart():
                return {"type": "text", "text": part.text}
            case ImagePart():
                return await self._fetched(part.image_url.url, "image", f"{where}.image_url.url") | self._said(part)
            case AudioURLPart():
                return await self._fetched(part.audio_url.url, "audio", f"{where}.audio_url.url") | self._said(part)
            case VideoURLPart():
                return await self._fetched(part.video_url.url, "video", f"{where}.video_url.url") | self._said(part)
            case InputAudioPart(input_audio=InputAudio(data=url)) if url.startswith(("https://", "http://")):
                return await self._fetched(url, "audio", f"{where}.input_audio.data") | self._said(part)
            case InputAudioPart():
                param = f"{where}.input_audio.data"
                check_medium(self.hub.omni.capabilities, "audio", param)
                most = self.hub.settings.limits.media_bytes
                data = await asyncio.to_thread(unbase64, part.input_audio.data, most, param)
                return self._medium("audio", checked(self.hub, data, "audio", param), param) | self._said(part)
            case _:
                assert_never(part)

    def _said(self, part: MediaPart) -> dict[str, Any]:
        """What a part says of how its medium is taken in, and what the request says where it does not."""
        own = part.model_dump(exclude={"type", "image_url", "video_url", "audio_url", "input_audio"}, exclude_none=True)
        return {key: value for key, value in self.looking.items() if key in type(part).model_fields} | own

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
