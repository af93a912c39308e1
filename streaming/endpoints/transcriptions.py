"""POST /v1/audio/transcriptions: the model writes down what it hears."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from html import escape
from typing import Annotated, Any, ClassVar, Literal

import av
import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from omni import Done, Event, TextDelta
from omni.events import TokenLogprob
from omni.streaming.endpoints.http import Events, Route, begun, while_there
from omni.streaming.endpoints.logprobs import told_logprob
from omni.streaming.fields import Body, check_hears, problem_of_fields
from omni.streaming.problems import Problem, refused, too_large
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import verify
from omni.streaming.usage import transcription_usage

router = APIRouter(route_class=Route)

FORM_BYTES = 64 << 10
"""What a form may hold besides its file; no field may hold more."""
MOST_FIELDS = 32
UNKNOWN_LANGUAGE = "und"
"""ISO 639's code for a language that was not told."""
LISTS = ("timestamp_granularities", "include")


class TranscriptionRequest(Body):
    """The fields of a form besides its file; all of them come as text.

    Attributes:
        language: is told again in verbose_json; the model hears by itself which it is.
        chunking_strategy: the sound is heard in one piece.
    """

    model_config = ConfigDict(strict=False)
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "chunking_strategy[type]": ("auto",),
        "known_speaker_names[]": (),
        "known_speaker_references[]": (),
    }

    model: str
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None
    prompt: Literal[""] = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    timestamp_granularities: list[Literal["segment"]] | None = None
    include: list[Literal["logprobs"]] | None = None
    stream: bool = False
    chunking_strategy: Literal["auto"] | None = None


def _form() -> dict[str, Any]:
    schema = TranscriptionRequest.model_json_schema()
    fields = {f"{name}[]" if name in LISTS else name: about for name, about in schema["properties"].items()}
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": file, **fields}, "required": ["file", "model"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


@router.post(
    "/v1/audio/transcriptions",
    openapi_extra=_form(),
    responses={200: {"content": {"application/json": {}, "text/plain": {}, "text/vtt": {}, "text/event-stream": {}}}},
)
async def transcribe(request: Request) -> Response:
    """Write down what is said in a sound file."""
    hub: Hub = request.app.state.hub
    asked, data = await read_form(request, hub.settings.limits.media_bytes)
    hub.check_model(asked.model)
    check_hears(hub.omni.capabilities, "file")
    _check(asked)
    await while_there(request, verify(hub, data, "audio", "file"))
    heard = _heard(hub, asked, data)
    if asked.stream:
        return Events(await begun(request, _events(asked, heard)))
    return await while_there(request, _whole(asked, data, heard))


def _check(asked: TranscriptionRequest) -> None:
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        raise refused("timestamp_granularities", "needs response_format: verbose_json")
    if asked.include and asked.response_format != "json":
        raise refused("include", "needs response_format: json")
    if asked.stream and asked.response_format not in ("json", "text"):
        raise refused("response_format", f"{asked.response_format} cannot be streamed; ask for json")


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
        name = key.removesuffix("[]")
        if isinstance(value, UploadFile):
            if key != "file":
                raise refused("file", "the sound belongs into the field of this name")
            file = value
        elif name in LISTS:
            fields.setdefault(name, []).append(value)
        else:
            fields[key] = value
    if file is None:
        raise Problem("file is missing: send a sound file", param="file", code="missing_required_parameter")
    try:
        return TranscriptionRequest.model_validate(fields), await file.read()
    except ValidationError as e:
        raise problem_of_fields(e.errors()) from e


@dataclass
class Transcript:
    """What has been written down so far."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Done | None = None

    async def read(self, events: AsyncGenerator[Event]) -> AsyncGenerator[TextDelta]:
        """The events' text, as it is added; Problem where it does not come to its end."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    self.text += event.text
                    self.logprobs += event.logprobs
                    yield event
                elif isinstance(event, Done):
                    if event.finish_reason != "stop":
                        sentence = "the transcript is longer than can be written at once; cut the sound"
                        raise refused("file", sentence, "context_length_exceeded")
                    self.done = event

    def usage(self) -> dict[str, Any]:
        assert self.done
        return transcription_usage(self.done.usage)


def _heard(hub: Hub, asked: TranscriptionRequest, data: bytes) -> AsyncGenerator[Event]:
    parts = [{"type": "audio", "audio": data}, {"type": "text", "text": hub.transcribe_prompt}]
    counted = bool(asked.include) or asked.response_format == "verbose_json"
    events = hub.omni.astream(
        [{"role": "user", "content": parts}],
        temperature=asked.temperature,
        max_tokens=hub.settings.limits.tokens,
        logprobs=0 if counted else None,
    )
    return hub.metrics.watched("transcription", events)


async def _events(asked: TranscriptionRequest, heard: AsyncGenerator[Event]) -> AsyncGenerator[dict[str, Any]]:
    written = Transcript()
    async with aclosing(written.read(heard)) as deltas:
        async for delta in deltas:
            yield {"type": "transcript.text.delta", "delta": delta.text, **_odds(asked, delta.logprobs)}
    done = {"type": "transcript.text.done", "text": written.text, "usage": written.usage()}
    yield {**done, **_odds(asked, written.logprobs)}


async def _whole(asked: TranscriptionRequest, data: bytes, heard: AsyncGenerator[Event]) -> Response:
    written = Transcript()
    async with aclosing(written.read(heard)) as deltas:
        async for _ in deltas:
            pass
    match asked.response_format:
        case "json":
            body = {"text": written.text, **_odds(asked, written.logprobs), "usage": written.usage()}
            return Response(orjson.dumps(body), media_type="application/json")
        case "text":
            return PlainTextResponse(f"{written.text}\n")
    seconds = await asyncio.to_thread(seconds_of, data)
    match asked.response_format:
        case "srt":
            return PlainTextResponse(f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{_line(written.text)}\n\n")
        case "vtt":
            cue = escape(_line(written.text), quote=False)
            return PlainTextResponse(
                f"WEBVTT\n\n{_clock(0, '.')} --> {_clock(seconds, '.')}\n{cue}\n\n", media_type="text/vtt"
            )
        case _:
            return Response(orjson.dumps(_verbose(asked, written, seconds)), media_type="application/json")


def _odds(asked: TranscriptionRequest, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    if not asked.include:
        return {}
    told = [told_logprob(token) for token in tokens]
    return {"logprobs": [{key: one[key] for key in ("token", "bytes", "logprob")} for one in told]}


def _verbose(asked: TranscriptionRequest, written: Transcript, seconds: float) -> dict[str, Any]:
    """One segment over all of the sound: the model does not tell when a word was said."""
    assert written.done
    text = written.text.encode()
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": seconds,
        "text": written.text,
        "tokens": written.done.token_ids,
        "temperature": asked.temperature,
        "avg_logprob": sum(token.logprob for token in written.logprobs) / max(1, len(written.logprobs)),
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0 if written.text.strip() else 1.0,
    }
    return {
        "task": "transcribe",
        "language": asked.language or UNKNOWN_LANGUAGE,
        "duration": seconds,
        "text": written.text,
        "segments": [segment],
        "usage": {"type": "duration", "seconds": seconds},
    }


def seconds_of(data: bytes) -> float:
    """How long a verified sound lasts; decoded to be sure, since headers may be wrong."""
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def _clock(seconds: float, point: str) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _line(text: str) -> str:
    return " ".join(text.split())
