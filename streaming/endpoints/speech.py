"""POST /v1/audio/speech, and a socket that speaks a text while it is still being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing, suppress
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from omni import AudioChunk, Done, Omni, Script
from omni.errors import MessageError
from omni.streaming import bounded_json
from omni.streaming.audio.tempo import Tempo
from omni.streaming.audio.wire import FILE_FORMATS, Base64Pieces, FileEncoder
from omni.streaming.endpoints.http import Events, Made, Route, begun
from omni.streaming.endpoints.voices import VoiceName, voice_for
from omni.streaming.fields import Body, problem_of_fields
from omni.streaming.notices import Notices, current, warn
from omni.streaming.problems import Problem, refused, server_fault, told
from omni.streaming.server.hub import Hub
from omni.streaming.usage import speech_usage

router = APIRouter(route_class=Route)

SOUNDS = sorted({form.media_type for form in FILE_FORMATS.values()})


class Manner(Body):
    """How something is to be said.

    Attributes:
        voice: the model's usual one when None.
        instructions: shape how the words are said, with a model that was taught to follow them.
        speed: by stretching or pressing together what the voice says, at the same pitch.
        strict: words that the voice has no sound for are an error; else they are left out and told.
    """

    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {"ref_audio": (), "ref_text": ("",), "volume_multiplier": (1,)}

    model: str
    voice: VoiceName | None = None
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Field(ge=0.25, le=4)] | None = None
    strict: bool | None = None


class SpeechRequest(Manner):
    input: str
    stream_format: Literal["audio", "sse"] | None = None


@router.post(
    "/v1/audio/speech",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in ("text/event-stream", *SOUNDS)}}},
)
async def speak(asked: SpeechRequest, request: Request) -> Response:
    """Speak a text: a sound file, sent as it is made, or server-sent events with its pieces."""
    hub: Hub = request.app.state.hub
    check_manner(hub, asked)
    _check_length(hub, len(asked.input), "input")
    try:
        script = await asyncio.to_thread(hub.omni.script, asked.input, strict=bool(asked.strict))
    except MessageError as e:
        raise refused("input", str(e)) from e
    warn(script.warnings)
    speech = await begun(request, speech_of(hub, hub.omni_for(request), asked, script))
    if asked.stream_format == "sse":
        return Events(_events(speech))
    return Made(_bytes(speech), FILE_FORMATS[asked.response_format or "mp3"].media_type)


def check_manner(hub: Hub, asked: Manner) -> None:
    """Problem where model or voice are not ours, or the instructions are too long."""
    hub.check_model(asked.model)
    voice_for(hub.omni, asked.voice, "voice")
    _check_length(hub, len(asked.instructions or ""), "instructions")


def _check_length(hub: Hub, num_chars: int, param: str) -> None:
    most = hub.settings.limits.speech_chars
    if num_chars > most:
        sentence = f"{num_chars} characters and {most} are allowed; send less at once"
        raise refused(param, sentence, "string_above_max_length")


def _nothing(param: str) -> Problem:
    return refused(param, "there is nothing to say; give at least one word")


class _File:
    """Sound to the bytes of a file at its speed."""

    def __init__(self, name: str, speed: float, rate: int) -> None:
        self._tempo = Tempo(speed, rate)
        self._encoder = FileEncoder(name, rate)

    def push(self, samples: NDArray[np.float32]) -> bytes:
        return self._encoder.push(self._tempo.push(samples))

    def finish(self) -> bytes:
        return self._encoder.push(self._tempo.finish()) + self._encoder.finish()


async def speech_of(hub: Hub, omni: Omni, manner: Manner, text: Script | AsyncIterable[str]) -> AsyncGenerator[bytes | Done]:
    """The pieces of a sound file, then how it ended; Problem where it could not be said to its end."""
    file = await asyncio.to_thread(
        _File, manner.response_format or "mp3", 1.0 if manner.speed is None else manner.speed, hub.omni.sample_rate
    )
    voice = voice_for(hub.omni, manner.voice, "voice")
    events = omni.asay(text, voice=voice, context=manner.instructions or (), strict=bool(manner.strict))
    async with aclosing(hub.metrics.watched("speech", events)) as seen:
        async for event in seen:
            if isinstance(event, AudioChunk):
                if data := await asyncio.to_thread(file.push, event.samples):
                    yield data
            elif isinstance(event, Done):
                warn(event.warnings)
                if event.finish_reason != "stop":
                    raise _cut(event)
                if data := await asyncio.to_thread(file.finish):
                    yield data
                yield event


def _cut(done: Done) -> Problem:
    if "context" in done.limits:
        return Problem("the text is longer than can be said at once; say it in parts", code="context_length_exceeded")
    return server_fault("the voice ran astray; try again")


async def _bytes(speech: AsyncGenerator[bytes | Done]) -> AsyncGenerator[bytes]:
    async with aclosing(speech):
        async for piece in speech:
            if isinstance(piece, bytes):
                yield piece


async def _events(speech: AsyncGenerator[bytes | Done]) -> AsyncGenerator[dict[str, Any]]:
    coded = Base64Pieces()
    async with aclosing(speech):
        async for piece in speech:
            data = coded.push(piece) if isinstance(piece, bytes) else coded.finish()
            if data:
                yield {"type": "speech.audio.delta", "audio": data}
            if isinstance(piece, Done):
                yield {"type": "speech.audio.done", **_told(piece)}


def _told(done: Done) -> dict[str, Any]:
    """What is said of a speech at its end; warnings are an addition of ours."""
    return {"usage": speech_usage(done.usage)} | ({"warnings": list(done.warnings)} if done.warnings else {})


class Start(Manner):
    type: Literal["start"]


class Text(Body):
    type: Literal["text"]
    text: str


class End(Body):
    type: Literal["end"]


Said: TypeAlias = Annotated[Start | Text | End, Field(discriminator="type")]
_said: TypeAdapter[Said] = TypeAdapter(Said)


@router.websocket("/v1/audio/speech/stream")
async def speak_along(socket: WebSocket) -> None:
    """Speak texts that come in pieces.

    The client sends JSON: `{"type": "start", "model", "voice", "response_format", "speed", "instructions", "strict"}`, of
    which the last four may be missing, any number of `{"type": "text", "text"}`, whose pieces may end in the middle of a
    word, and `{"type": "end"}`. It gets binary frames, which make up one sound file, from the first sentence on, and once
    all is said `{"type": "done", "usage"}`, with "warnings" where there are any; then it may start again. A fault is told
    by `{"type": "error", "error"}`, with OpenAI's error object, and closes the socket, with 1008 where the client and 1011
    where the server is at fault. Closing the socket ends the speech.
    """
    hub: Hub = socket.app.state.hub
    current.set(Notices(strict=hub.settings.strict))
    await socket.accept()
    try:
        async with asyncio.timeout(hub.settings.limits.session_seconds):
            while True:
                await _speak_once(hub, socket)
    except WebSocketDisconnect:
        return
    except TimeoutError:
        await _fail(socket, Problem("the session has lasted as long as it may; connect again", code="session_expired"))
    except Exception as e:  # whatever it is, a client gets an error object, not a dead socket
        await _fail(socket, told(e))


async def _speak_once(hub: Hub, socket: WebSocket) -> None:
    start = await _hear(hub, socket)
    if not isinstance(start, Start):
        raise Problem("begin with a message of type start", param="type", code="unexpected_message")
    check_manner(hub, start)
    async with aclosing(speech_of(hub, hub.omni_for(socket), start, _pieces(hub, socket))) as speech:
        async for piece in speech:
            if isinstance(piece, bytes):
                await socket.send_bytes(piece)
            else:
                await socket.send_json({"type": "done", **_told(piece)})


async def _pieces(hub: Hub, socket: WebSocket) -> AsyncGenerator[str]:
    """Text until its end; read only as it is needed, so that a client that is too quick has to wait."""
    num_chars, has_words = 0, False
    while isinstance(said := await _hear(hub, socket), Text):
        num_chars, has_words = num_chars + len(said.text), has_words or bool(said.text.strip())
        _check_length(hub, num_chars, "text")
        yield said.text
    if isinstance(said, Start):
        raise Problem("a speech is going on; send text or end", param="type", code="unexpected_message")
    if not has_words:
        raise _nothing("text")


async def _hear(hub: Hub, socket: WebSocket) -> Said:
    """The client's next message."""
    idle = hub.settings.limits.idle_seconds
    try:
        message = await asyncio.wait_for(socket.receive(), idle)
    except TimeoutError:
        raise Problem(f"nothing came for {idle:g} s; connect again", code="idle_timeout") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    try:
        return await bounded_json.read(message.get("text") or "", _said.validate_python)
    except ValidationError as e:
        raise problem_of_fields(e.errors(), tagged=True) from e
    except ValueError as e:
        raise Problem(f"the message is not JSON: {e}", code="invalid_json") from e


async def _fail(socket: WebSocket, problem: Problem) -> None:
    """Tell of a fault, as far as the client still listens, and close."""
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_json({"type": "error", **problem.body})
        await socket.close(1008 if problem.status < 500 else 1011)
