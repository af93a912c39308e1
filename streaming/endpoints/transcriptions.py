"""POST /v1/audio/transcriptions: the model writes down what it hears."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from omni import Cutting, Omni
from omni.events import Heard, Segment, TextDelta, TokenLogprob, Transcript
from omni.streaming.endpoints.http import Events, Route, begun, while_there
from omni.streaming.endpoints.languages import UNKNOWN
from omni.streaming.endpoints.logprobs import told_logprob
from omni.streaming.endpoints.subtitles import srt, vtt
from omni.streaming.endpoints.transcription_request import ServerVad, TranscriptionRequest, form_schema, read_form
from omni.streaming.fields import check_hears
from omni.streaming.notices import warn
from omni.streaming.problems import Problem, refused
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import checked
from omni.streaming.usage import transcription_usage

router = APIRouter(route_class=Route)

SEEKS = 100
"""Whisper's frames a second, in which it tells where it began to listen."""


@router.post(
    "/v1/audio/transcriptions",
    openapi_extra=form_schema(),
    responses={200: {"content": {"application/json": {}, "text/plain": {}, "text/vtt": {}, "text/event-stream": {}}}},
)
async def transcribe(request: Request) -> Response:
    """Write down what is said in a recording."""
    hub: Hub = request.app.state.hub
    asked, data = await read_form(request, hub.settings.limits.media_bytes)
    hub.check_model(asked.model)
    check_hears(hub.omni.capabilities, "file")
    _check(asked)
    heard = _heard(hub, hub.omni_for(request), asked, checked(hub, data, "audio", "file"))
    if asked.stream:
        return Events(await begun(request, _events(asked, heard)))
    return _answer(asked, await while_there(request, _whole(heard)))


@router.post("/v1/audio/translations", include_in_schema=False)
async def translate() -> None:
    """Refused by name: clients offer it beside transcriptions."""
    raise Problem(
        "/v1/audio/translations is not made here: write the recording down with /v1/audio/transcriptions, or send it to "
        "/v1/chat/completions as input_audio and ask for a translation",
        code="unsupported_endpoint",
    )


def _check(asked: TranscriptionRequest) -> None:
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        raise refused("timestamp_granularities", "needs response_format: verbose_json")
    if asked.include and asked.response_format != "json":
        raise refused("include", "needs response_format: json")
    if asked.stream and asked.response_format not in ("json", "text"):
        raise refused("response_format", f"{asked.response_format} cannot be streamed; ask for json")


def _heard(hub: Hub, omni: Omni, asked: TranscriptionRequest, data: bytes) -> AsyncGenerator[Heard]:
    events = omni.astream_transcript(
        data,
        words=asked.times_words,
        cutting=_cutting(hub.omni.cutting, asked.chunking_strategy),
        temperature=asked.temperature,
        max_tokens=hub.settings.limits.tokens,
    )
    return hub.metrics.watched("transcription", events)


def _cutting(usual: Cutting, asked: ServerVad | None) -> Cutting:
    """How the recording is cut: as its model needs it, but for what a client says."""
    if asked is None:
        return usual
    padding, silence = asked.prefix_padding_ms, asked.silence_duration_ms
    return replace(
        usual,
        threshold=usual.threshold if asked.threshold is None else asked.threshold,
        padding=usual.padding if padding is None else padding / 1000,
        silence=usual.silence if silence is None else silence / 1000,
    )


async def _events(asked: TranscriptionRequest, heard: AsyncGenerator[Heard]) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(heard):
        async for event in heard:
            match event:
                case TextDelta():
                    yield {"type": "transcript.text.delta", "delta": event.text, **_odds(asked, event.logprobs)}
                case Transcript():
                    warn(event.warnings)
                    told = {"warnings": event.warnings} if event.warnings else {}  # the headers are out
                    done = {"type": "transcript.text.done", "text": event.text, **_odds(asked, _logprobs(event)), **told}
                    yield {**done, "usage": transcription_usage(event.usage)}


async def _whole(heard: AsyncGenerator[Heard]) -> Transcript:
    async with aclosing(heard):
        async for event in heard:
            if isinstance(event, Transcript):
                return event
    raise AssertionError("a recording ends with its transcript")


def _answer(asked: TranscriptionRequest, written: Transcript) -> Response:
    warn(written.warnings)
    match asked.response_format:
        case "text":
            return PlainTextResponse(f"{written.text}\n")
        case "srt":
            return PlainTextResponse(srt(written.segments))
        case "vtt":
            return PlainTextResponse(vtt(written.segments), media_type="text/vtt")
        case "json":
            odds = _odds(asked, _logprobs(written))
            body = {"text": written.text, **odds, "usage": transcription_usage(written.usage)}
        case "verbose_json":
            body = _verbose(asked, written)
    return Response(orjson.dumps(body), media_type="application/json")


def _logprobs(written: Transcript) -> list[TokenLogprob]:
    return [token for segment in written.segments for token in segment.logprobs]


def _odds(asked: TranscriptionRequest, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    if not asked.include:
        return {}
    told = [told_logprob(token) for token in tokens]
    return {"logprobs": [{key: one[key] for key in ("token", "bytes", "logprob")} for one in told]}


def _verbose(asked: TranscriptionRequest, written: Transcript) -> dict[str, Any]:
    said = [segment for segment in written.segments if segment.text]
    words = [{"word": word.text, "start": word.start, "end": word.end} for word in written.words]
    return {
        "task": "transcribe",
        "language": asked.language or UNKNOWN,
        "duration": written.seconds,
        "text": written.text,
        "segments": [_segment(asked, i, segment) for i, segment in enumerate(said)],
        **({"words": words} if asked.times_words else {}),
        "usage": {"type": "duration", "seconds": written.seconds},
    }


def _segment(asked: TranscriptionRequest, index: int, segment: Segment) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": index,
        "seek": round(SEEKS * segment.start),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": segment.token_ids,
        "temperature": asked.temperature,
        "avg_logprob": sum(token.logprob for token in segment.logprobs) / max(1, len(segment.logprobs)),
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": segment.no_speech,
    }
