"""The realtime API's client events and input items, as they come; fields that are not known here are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from omni.streaming.audio.wire import unbase64
from omni.streaming.bounded_json import parse as parse_json
from omni.streaming.fields import Each, Fields, Glance, JsonObject, parse
from omni.streaming.problems import Problem

APPEND_BYTES = 15 << 20
"""Sound in one event."""
MOST_PARTS = 256
"""Of one message."""

Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]


class ClientEvent(Fields):
    taken = frozenset({"type", "event_id"})


class ItemEvent(ClientEvent):
    item_id: str


class TruncateEvent(ItemEvent):
    """audio_end_ms: some clients send fractions."""

    content_index: int
    audio_end_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CreateItemEvent(ClientEvent):
    item: dict[str, Any]
    previous_item_id: str | None = None


class AppendEvent(ClientEvent):
    """audio: base64, unless `decoded` has undone that."""

    audio: str | bytes


class UpdateEvent(ClientEvent):
    session: dict[str, Any]


class CreateResponseEvent(ClientEvent):
    response: dict[str, Any] | None = None


class CancelEvent(ClientEvent):
    response_id: str | None = None


class InputText(Fields):
    type: Literal["input_text", "text"]
    text: str


class InputAudio(Fields):
    """transcript: kept with the item, and not told to the model."""

    type: Literal["input_audio"]
    audio: str
    transcript: str | None = None


class InputImage(Fields):
    """detail: pictures are always read in the detail that the model was taught with."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] | None = None


class OutputText(Fields):
    type: Literal["output_text", "text"]
    text: str


class OutputAudio(Fields):
    """What was said in an earlier session; its sound cannot be brought back."""

    type: Literal["output_audio", "audio"]
    taken = frozenset({"audio"})
    transcript: str


UserPart: TypeAlias = Annotated[InputText | InputAudio | InputImage, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[OutputText | OutputAudio, Field(discriminator="type")]


class InputItem(Fields):
    taken = frozenset({"type", "object", "role", "status", "created_at"})
    id: Id | None = None


class UserMessage(InputItem):
    content: Annotated[Each[UserPart], Field(min_length=1, max_length=MOST_PARTS)]


class SystemMessage(InputItem):
    content: Annotated[Each[InputText], Field(min_length=1, max_length=MOST_PARTS)]


class AssistantMessage(InputItem):
    content: Annotated[Each[AssistantPart], Field(min_length=1, max_length=MOST_PARTS)]


class FunctionCall(InputItem):
    name: str
    call_id: Id | None = None
    arguments: JsonObject = "{}"


class FunctionCallOutput(InputItem):
    call_id: Id
    output: str


class Reference(Fields):
    """An item of the conversation, among the input of a response."""

    type: Literal["item_reference"]
    id: str


class Choice(Glance):
    type: Literal["message", "function_call", "function_call_output"]


class Role(Glance):
    role: Literal["user", "system", "assistant"]


ROLES: Mapping[str, type[InputItem]] = {"user": UserMessage, "system": SystemMessage, "assistant": AssistantMessage}
KINDS: Mapping[str, type[InputItem]] = {"function_call": FunctionCall, "function_call_output": FunctionCallOutput}


def parse_item(value: object, param: str) -> InputItem:
    """An item that a client made."""
    kind = parse(Choice, value, param).type
    return parse(ROLES[parse(Role, value, param).role] if kind == "message" else KINDS[kind], value, param)


def appended(event: Mapping[str, Any]) -> bytes:
    """The sound of an `input_audio_buffer.append`; Problem where it is too long or no base64."""
    audio = parse(AppendEvent, event, "").audio
    return unbase64(audio, APPEND_BYTES, "audio") if isinstance(audio, str) else audio


def decoded(text: str) -> object:
    """The JSON of a large frame, with its sound as bytes: all that takes long, so that a thread can do it.

    Sound that is too long, or is no base64, stays as it is. Raises ValueError where the text is no JSON, and Problem
    where it holds more than it may.
    """
    event = parse_json(text)
    match event:
        case {"type": "input_audio_buffer.append", "audio": str(audio)}:
            with suppress(Problem):
                event["audio"] = unbase64(audio, APPEND_BYTES, "audio")
    return event


def pictures(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The path and the URL of every picture that an event's items hold; to be fetched before the event is taken."""
    found = list[tuple[str, str]]()
    match event:
        case {"type": "conversation.item.create", "item": item}:
            _find(item, "item", found)
        case {"type": "response.create", "response": {"input": [*items]}}:
            for i, item in enumerate(items):
                _find(item, f"response.input[{i}]", found)
    return found


def _find(item: object, path: str, found: list[tuple[str, str]]) -> None:
    match item:
        case {"type": "message", "role": "user", "content": [*parts]}:
            for i, part in enumerate(parts):
                match part:
                    case {"type": "input_image", "image_url": str(url)}:
                        found.append((f"{path}.content[{i}].image_url", url))
