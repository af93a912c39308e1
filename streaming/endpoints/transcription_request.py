"""The form that asks for a transcript: its fields, which all come as text, and its file."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from omni.streaming.endpoints.languages import code_of
from omni.streaming.fields import Body, Fields, problem_of_fields
from omni.streaming.problems import Problem, refused, too_large

FORM_BYTES = 64 << 10
"""What a form may hold besides its file; no field may hold more."""
MOST_FIELDS = 32
LISTS = ("timestamp_granularities", "include", "known_speaker_names", "known_speaker_references", "keywords", "languages")
NESTED = re.compile(r"(\w+)\[(\w*)\]")


class _Lax(Fields):
    model_config = ConfigDict(strict=False)


class ServerVad(_Lax):
    """How the recording is cut: OpenAI's words for a threshold, and for sound before a voice and silence behind it."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None


def _format(name: object) -> object:
    if name == "diarized_json":
        raise ValueError("diarized_json is not made here, since speakers are not told apart; ask for verbose_json")
    return name


def _items(value: object) -> object:
    """Lists come as several fields, as JSON, or with commas."""
    if not isinstance(value, list):
        return value
    found: list[object] = []
    for item in value:
        read = _json(item)
        found += read if isinstance(read, list) else [each.strip() for each in item.split(",")]
    return found


def _json(value: object) -> object:
    """An object or a list that is written as JSON; everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _strategy(value: object) -> object:
    read = _json(value)
    if read == "auto":
        return None
    if not isinstance(read, dict):
        raise ValueError('give "auto", or an object whose type is server_vad')
    return read


ResponseFormat: TypeAlias = Annotated[Literal["json", "text", "srt", "verbose_json", "vtt"], BeforeValidator(_format)]
Granularities: TypeAlias = Annotated[list[Literal["word", "segment"]], BeforeValidator(_items)]
Strategy: TypeAlias = Annotated[ServerVad | None, BeforeValidator(_strategy)]


class TranscriptionRequest(Body):
    """The fields of a form besides its file; one that is empty is as if it were not there.

    A `prompt` is passed over, and told: no checkpoint here was taught to take hints.

    Attributes:
        language: as ISO 639 writes it, whatever its spelling was; told again in verbose_json: the model hears by itself
            which it is.
        timestamp_granularities: words are timed where they are asked for.
        chunking_strategy: recordings are cut at silences in any case; a server_vad says at which.
    """

    model_config = ConfigDict(strict=False)

    undone: ClassVar = {"known_speaker_names": (), "known_speaker_references": (), "task": ("transcribe",)}

    model: str
    language: Annotated[str, AfterValidator(code_of)] | None = None
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    timestamp_granularities: Granularities | None = None
    include: Annotated[list[Literal["logprobs"]], BeforeValidator(_items)] | None = None
    stream: bool = False
    chunking_strategy: Strategy | None = None

    @property
    def times_words(self) -> bool:
        """Cues of subtitles are cut between words, too."""
        return self.response_format in ("srt", "vtt") or "word" in (self.timestamp_granularities or ())


def form_schema() -> dict[str, Any]:
    """For OpenAPI."""
    schema = TranscriptionRequest.model_json_schema(ref_template="#/{model}")
    fields = {f"{name}[]" if name in LISTS else name: about for name, about in schema["properties"].items()}
    fields["chunking_strategy"] = {"type": "string", "description": '"auto", or an object of type server_vad as JSON'}
    fields["prompt"] = {"type": "string"}
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": file, **fields}, "required": ["file", "model"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


async def read_form(request: Request, most: int) -> tuple[TranscriptionRequest, bytes]:
    """What is asked, and the sound file of at most so many bytes, counted as they come; raises Problem."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > most + FORM_BYTES:
            raise too_large("file", f"more than the {most} bytes that are allowed")
        return message

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Problem("send a form of multipart/form-data, with a file and a model", code="invalid_form")
    try:
        form = await Request(request.scope, counted).form(max_files=1, max_fields=MOST_FIELDS, max_part_size=FORM_BYTES)
    except HTTPException as e:
        raise Problem(f"the form cannot be read: {e.detail}", code="invalid_form") from e
    except ValueError as e:  # a charset that decodes no such text
        raise Problem("the form cannot be read: send it in UTF-8", code="invalid_form") from e
    try:
        return await _fields(form)
    finally:
        await form.close()


async def _fields(form: FormData) -> tuple[TranscriptionRequest, bytes]:
    fields: dict[str, Any] = {}
    file: UploadFile | None = None
    for key, value in form.multi_items():
        name, inner = found.groups() if (found := NESTED.fullmatch(key)) else (key, "")
        if isinstance(value, UploadFile):
            if key != "file":
                raise refused("file", "the sound belongs into the field of this name")
            file = value
        elif value == "":
            continue
        elif name in LISTS:
            fields.setdefault(name, []).append(value)
        elif inner and isinstance(fields.setdefault(name, {}), dict):
            fields[name][inner] = value
        else:
            fields[name if not inner else key] = value
    if file is None:
        raise Problem("file is missing: send a sound file", param="file", code="missing_required_parameter")
    try:
        return TranscriptionRequest.model_validate(fields), await file.read()
    except ValidationError as e:
        raise problem_of_fields(e.errors()) from e
