"""A conversation with a server from Python: turns in, events out, over `/v1/realtime`."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from omni.errors import EngineError, InputError
from omni.streaming.audio.wire import FORMATS, Resampler

PCM = FORMATS["audio/pcm"]
PIECE = 0.1
"""Seconds of sound in one message."""
OPEN_SECONDS = 10.0
URL = "ws://127.0.0.1:8000"


@dataclass
class Answer:
    """One answer, as it comes.

    Attributes:
        heard: what the model says it heard; empty for a typed turn.
        text: of the answer; sound: float32 `[S]` pieces at 24 kHz.
        first_sound: seconds from the end of the question to the first sound; None where there was none.
        status: as in `response.done`.
    """

    heard: str = ""
    text: str = ""
    sound: list[NDArray[np.float32]] = field(default_factory=list)
    first_sound: float | None = None
    status: str = ""

    @property
    def samples(self) -> NDArray[np.float32]:
        return np.concatenate([np.empty(0, np.float32), *self.sound])


def address_of(url: str) -> str:
    """Of a server's socket: its URL may be the page's, OpenAI's base URL, or the socket's own."""
    scheme, _, rest = url.rpartition("://")
    place, _, query = rest.partition("?")
    place = place.rstrip("/")
    if not place.endswith("/v1/realtime"):
        place += "/realtime" if place.endswith("/v1") else "/v1/realtime"
    scheme = {"http": "ws", "https": "wss", "": "ws"}.get(scheme.lower(), scheme)
    return f"{scheme}://{place}{'?' if query else ''}{query}"


def _reason(error: Exception) -> str:
    """Why a socket did not open, and what to do, in the words of `omni chat`."""
    match error:
        case InvalidStatus() if error.response.status_code in (401, 403):
            return "the server wants a key, or another one; give --api-key"
        case InvalidStatus():
            try:
                told = orjson.loads(error.response.body)["error"]["message"]
            except (ValueError, TypeError, KeyError):
                told = f"it answers with status {error.response.status_code}; is it one of `omni serve`?"
            return str(told)
        case InvalidURI():
            return "this is no address of a server; start one with `omni serve`, and give --url http://HOST:PORT"
        case _:
            return f"{error}; start a server with `omni serve`, or give --url http://HOST:PORT"


class Client:
    """A conversation in which each turn ends where its caller says so.

    Args:
        url: of the server, "http://host:port" or "ws://...", with TLS "https://..." or "wss://..."; a path may follow.
        key: where the server wants one.
        voice: speaks the answers, the server's own choice when None; `speaks` False for text alone.

    Raises:
        InputError: no server there, or it refuses.
    """

    rate = PCM.rate

    def __init__(
        self,
        url: str = URL,
        *,
        key: str | None = None,
        voice: str | None = None,
        instructions: str = "",
        speaks: bool = True,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._socket: ClientConnection = connect(
                address_of(url),
                additional_headers=headers,
                open_timeout=OPEN_SECONDS,
                max_size=None,
                compression=None,
            )
        except (OSError, InvalidHandshake, InvalidURI) as e:
            raise InputError(f"no conversation with {url}: {_reason(e)}") from e
        audio: dict[str, Any] = {"input": {"turn_detection": None}}
        if voice:
            audio["output"] = {"voice": voice}
        session = {
            "type": "realtime",
            "output_modalities": ["audio" if speaks else "text"],
            "instructions": instructions,
            "audio": audio,
        }
        self._heard = False
        self._send("session.update", session=session)
        for event in self._events():
            if event["type"] == "session.updated":
                return

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def show(self, picture: Image.Image) -> None:
        """Show a picture; what is asked next may be about it."""
        data = io.BytesIO()
        picture.convert("RGB").save(data, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        self._add({"type": "input_image", "image_url": url})

    def ask(self, question: str | tuple[NDArray[np.float32], int]) -> Iterator[Answer]:
        """Ask in writing, or aloud with a mono wave and its rate; the answer so far, each time that there is more of it."""
        if isinstance(question, str):
            self._add({"type": "input_text", "text": question})
        else:
            self._speak(*question)
        asked, answer = time.perf_counter(), Answer()
        self._send("response.create")
        spoken, done = not isinstance(question, str), False
        for event in self._events():
            match event["type"]:
                case "conversation.item.input_audio_transcription.completed":
                    answer.heard, spoken = event["transcript"], False
                case "conversation.item.input_audio_transcription.failed":
                    spoken = False
                case "response.output_text.delta" | "response.output_audio_transcript.delta":
                    answer.text += event["delta"]
                case "response.output_audio.delta":
                    if answer.first_sound is None:
                        answer.first_sound = time.perf_counter() - asked
                    answer.sound.append(PCM.decode(base64.b64decode(event["delta"])))
                case "response.done":
                    answer.status, done = event["response"]["status"], True
                    if answer.status == "failed":
                        raise EngineError(event["response"]["status_details"]["error"]["message"])
                case _:
                    continue
            yield answer
            if done and not spoken:
                return

    def _add(self, part: dict[str, Any]) -> None:
        self._send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})

    def _speak(self, wave: NDArray[np.float32], rate: int) -> None:
        if not self._heard:  # a model that does not hear is asked nothing of the kind
            audio = {"input": {"transcription": {"model": "omni"}}}
            self._send("session.update", session={"type": "realtime", "audio": audio})
            self._heard = True
        resampler = Resampler(rate, PCM.rate)
        size = round(PIECE * rate)
        pieces = [resampler.push(wave[at : at + size]) for at in range(0, len(wave), size)]
        for samples in (*pieces, resampler.finish()):
            if len(samples):
                self._send("input_audio_buffer.append", audio=base64.b64encode(PCM.encode(samples)).decode())
        self._send("input_audio_buffer.commit")

    def _send(self, kind: str, **fields: Any) -> None:
        try:
            self._socket.send(orjson.dumps({"type": kind, **fields}).decode())
        except ConnectionClosed as e:
            raise EngineError(f"the server has ended the conversation: {e}") from e

    def _events(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                event = orjson.loads(self._socket.recv())
            except ConnectionClosed as e:
                raise EngineError(f"the server has ended the conversation: {e}") from e
            if event["type"] == "error":
                raise InputError(event["error"]["message"])
            yield event
