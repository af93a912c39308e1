"""POST /v1/audio/speech and its socket."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import av
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openai import OpenAI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from omni import Event, Omni, TextDelta
from omni.errors import CapacityError, EngineError
from omni.script.wording import Spoken
from omni.streaming.app import create_app
from omni.streaming.audio.wire import FILE_FORMATS
from omni.streaming.endpoints.speech import SpeechRequest
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL, RATE, Scripted, decoded, done, hub_of, openai_of, serving, sound

FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]
LOUDNESS = 0.5 / np.sqrt(2)
"""Of what Scripted says."""


@pytest.fixture(scope="module")
def client(omni: Omni) -> Iterator[OpenAI]:
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        yield client


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted(TextDelta("Yes."), sound(0.6), sound(0.4), done(codec_tokens=50))


@pytest.fixture(scope="module")
def told(scripted: Scripted) -> Iterator[OpenAI]:
    with serving(hub_of(scripted)) as address, openai_of(address) as client:
        yield client


def wave_of(data: bytes, name: str) -> NDArray[Any]:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768 if name == "pcm" else decoded(data)


def post(client: OpenAI, **body: Any) -> httpx.Response:
    asked = {"model": MODEL, "input": "Hello.", "voice": "Ethan", **body}
    return httpx.post(f"{client.base_url}audio/speech", json=asked, trust_env=False, timeout=60)


# ---- files


def test_exact_words_in_a_real_voice(omni: Omni, client: OpenAI) -> None:
    """As long as what the runtime itself says, and as loud: its seed is its own each time."""
    with client.audio.speech.with_streaming_response.create(
        model=MODEL, input="Hello.", voice="Ethan", response_format="pcm"
    ) as reply:
        assert reply.headers["content-type"] == "audio/pcm"
        wave = wave_of(reply.read(), "pcm")
    assert 0.2 < len(wave) / RATE < 2
    assert len(wave) % 480 == 0, "a code is 20 ms"
    assert np.abs(wave).max() > 0.1
    heard = omni.generate(
        [{"role": "user", "content": [{"type": "audio", "audio": (wave, RATE)}, "Repeat what I said."]}], max_tokens=20
    )
    assert "hello" in heard.text.lower()


def test_words_without_a_sound_are_told_before_the_first_byte(client: OpenAI) -> None:
    reply = post(client, input="Yes, 2 elephants \U0001f642.", response_format="pcm")
    assert reply.status_code == 200
    assert unquote(reply.headers["x-omni-warnings"]).endswith("elephants, \U0001f642")
    refusal = post(client, input="Yes, 2 elephants.", strict=True)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "input")
    assert "elephants" in refusal.json()["error"]["message"]
    assert "x-omni-warnings" not in post(client, input="Yes.", strict=True).headers


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_the_same_sound(told: OpenAI, name: Any) -> None:
    reply = told.audio.speech.create(model=MODEL, input="Hello.", voice="Ethan", response_format=name)
    assert reply.response.headers["content-type"] == FILE_FORMATS[name].media_type
    wave = wave_of(reply.content, name)
    assert len(wave) == pytest.approx(RATE, abs=0.1 * RATE)
    assert np.sqrt(np.mean(wave[4800:19200] ** 2)) == pytest.approx(LOUDNESS, abs=0.05)


def test_mp3_unless_told(told: OpenAI, scripted: Scripted) -> None:
    reply = told.audio.speech.create(model=MODEL, input="Hello.", voice={"id": "Ethan"}, instructions="Softly.")
    assert reply.response.headers["content-type"] == "audio/mpeg"
    with av.open(io.BytesIO(reply.content)) as container:
        assert container.format.name == "mp3"
    asked = scripted.asked[-1]
    assert (asked["text"], asked["voice"], asked["context"]) == ("Hello.", "Ethan", "Softly.")


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.0, 4.0])
def test_speed(told: OpenAI, speed: float) -> None:
    reply = told.audio.speech.create(model=MODEL, input="Hello.", voice="Ethan", response_format="pcm", speed=speed)
    wave = wave_of(reply.content, "pcm")
    assert len(wave) == round(RATE / speed)
    peak = np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave)
    assert peak == pytest.approx(300, abs=10)


@pytest.mark.parametrize("name", ["pcm", "mp3"])
def test_events(name: str, told: OpenAI) -> None:
    reply = post(told, response_format=name, stream_format="sse")
    assert reply.headers["content-type"].startswith("text/event-stream") and reply.headers["cache-control"] == "no-store"
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    *deltas, last = events
    assert len(deltas) > 1 and {event["type"] for event in deltas} == {"speech.audio.delta"}
    whole = base64.b64decode("".join(event["audio"] for event in deltas), validate=True)
    assert whole == post(told, response_format=name).content
    assert last == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 13, "output_tokens": 50, "total_tokens": 63},
    }


def test_sound_is_sent_as_it_is_made() -> None:
    omni = Scripted(sound(1.0), None)
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        asked: Any = {"model": MODEL, "input": "Hello.", "voice": "Ethan", "response_format": "pcm"}
        with client.audio.speech.with_streaming_response.create(**asked) as reply:
            pieces = reply.iter_bytes(1000)
            first = next(pieces)
            assert omni.begun.wait(20) and not omni.ended.is_set()
        assert len(first) == 1000 and omni.ended.wait(20), "leaving ends the speech"


# ---- what goes wrong


@pytest.mark.parametrize(
    ("more", "status", "param", "says"),
    [
        ({"voice": "nobody"}, 400, "voice", "known: Chelsie, Ethan"),
        ({"voice": {"id": "nobody"}}, 400, "voice", "known: Chelsie, Ethan"),
        ({"voice": {"name": "Ethan"}}, 400, "voice", "string"),
        ({"model": "tts-1"}, 404, "model", MODEL),
        ({"input": "  \n"}, 400, "input", "no text to say"),
        ({"input": "..."}, 400, "input", "no text to say"),
        ({"input": "x" * 4097}, 400, "input", "4096"),
        ({"instructions": "x" * 4097}, 400, "instructions", "4096"),
        ({"speed": 0.2}, 400, "speed", "0.25"),
        ({"speed": 5}, 400, "speed", "4"),
        ({"response_format": "ogg"}, 400, "response_format", "'opus'"),
        ({"stream_format": "both"}, 400, "stream_format", "'sse'"),
        ({"ref_audio": "x"}, 400, "ref_audio", "leave it out"),
    ],
)  # fmt: skip
def test_refusals(told: OpenAI, more: dict[str, Any], status: int, param: str, says: str) -> None:
    reply = post(told, **more)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert says in error["message"] and error["code"]


def test_a_model_without_a_voice() -> None:
    omni = Scripted()
    omni.voices = {}
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        assert "does not speak" in post(client).json()["error"]["message"]


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_faults_before_the_first_sound_are_statuses(stream_format: str) -> None:
    with serving(hub_of(Scripted(TextDelta("Hel"), CapacityError("all full")))) as address, openai_of(address) as client:
        reply = post(client, stream_format=stream_format)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")


CUTS = [
    (EngineError("secret detail"), "server_error"),
    (done("length", ("audio",)), "server_error"),
    (done("length", ("context",)), "context_length_exceeded"),
]


@pytest.mark.parametrize(("end", "code"), CUTS)
def test_a_speech_that_is_cut_does_not_look_whole(end: Any, code: str) -> None:
    with serving(hub_of(Scripted(sound(), end))) as address, openai_of(address) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked"):
            post(client, response_format="pcm")
        lines = post(client, stream_format="sse").text.strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == code
    assert "secret" not in lines[-1]


APP = create_app(hub_of(Scripted(sound(0.05), done())))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("id"), inner, max_size=3),
    max_leaves=4,
)
VALID = {"model": MODEL, "input": "Hello.", "voice": "Ethan", "response_format": "pcm"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*SpeechRequest.model_fields, "unknown"]), JSON, max_size=2) | JSON)
def test_no_body_breaks_the_server(body: Any) -> None:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=APP), base_url="http://localhost") as http:
            content = json.dumps({**VALID, **body} if isinstance(body, dict) else body)
            return await http.post("/v1/audio/speech", content=content, headers={"content-type": "application/json"})

    reply = asyncio.run(send())
    assert reply.status_code < 500
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


# ---- the socket

START = {"type": "start", "model": MODEL, "voice": "Ethan", "response_format": "pcm"}


def socket_of(address: str) -> Connection:
    return connect(f"{address.replace('http', 'ws')}/v1/audio/speech/stream", proxy=None)


def say(socket: Connection, *messages: Any) -> None:
    for message in messages:
        socket.send(json.dumps(message))


def hear(socket: Connection) -> tuple[bytes, dict[str, Any]]:
    """Sound until something else is said."""
    whole = b""
    while isinstance(message := socket.recv(timeout=60), bytes):
        whole += message
    return whole, json.loads(message)


def texts(*pieces: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": piece} for piece in pieces]


def test_a_text_in_pieces_in_a_real_voice(omni: Omni) -> None:
    with serving(hub_of(omni)) as address, socket_of(address) as socket:
        say(socket, START, *texts("Hel", "lo", "."), {"type": "end"})
        whole, last = hear(socket)
    wave = wave_of(whole, "pcm")
    assert last["type"] == "done" and last["usage"]["output_tokens"] * 480 == len(wave)
    heard = omni.generate(
        [{"role": "user", "content": [{"type": "audio", "audio": (wave, RATE)}, "Repeat what I said."]}], max_tokens=20
    )
    assert "hello" in heard.text.lower()


def test_what_was_left_out_is_told_at_the_end_of_a_stream() -> None:
    warned = replace(done(), warnings=("left out: elephant",))
    with serving(hub_of(Scripted(sound(), warned))) as address:
        with socket_of(address) as socket:
            say(socket, START, *texts("Yes."), {"type": "end"})
            assert hear(socket)[1]["warnings"] == ["left out: elephant"]
        with openai_of(address) as client:
            lines = post(client, stream_format="sse").text.strip().split("\n\n")
            assert json.loads(lines[-1].removeprefix("data: "))["warnings"] == ["left out: elephant"]


def test_several_speeches_one_after_the_other(scripted: Scripted, told: OpenAI) -> None:
    with socket_of(str(told.base_url).removesuffix("/v1/")) as socket:
        for name in ("pcm", "mp3"):
            manner = {**START, "response_format": name, "speed": 2.0, "instructions": "Softly."}
            say(socket, manner, *texts("One", " two."), {"type": "end"})
            whole, last = hear(socket)
            assert last == {"type": "done", "usage": {"input_tokens": 13, "output_tokens": 50, "total_tokens": 63}}
            assert len(wave_of(whole, name)) == pytest.approx(RATE / 2, abs=0.1 * RATE)
            asked = scripted.asked[-1]
            assert (asked["text"], asked["voice"], asked["context"]) == ("One two.", "Ethan", "Softly.")


class Eager(Scripted):
    """Speaks a second for each piece of text, before it asks for the next."""

    async def asay(self, text: Spoken | AsyncIterable[str], **options: Any) -> AsyncGenerator[Event]:
        assert not isinstance(text, Spoken)
        async for piece in text:
            yield TextDelta(piece)
            yield sound(1.0)
        yield done()


def test_sound_comes_while_text_is_still_written() -> None:
    with serving(hub_of(Eager())) as address, socket_of(address) as socket:
        say(socket, START, *texts("One"))
        assert len(socket.recv(timeout=20)) == 2 * RATE
        say(socket, *texts(" two"), {"type": "end"})
        whole, last = hear(socket)
        assert len(whole) == 2 * RATE and last["type"] == "done"


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        (["{"], None, "invalid_json"),
        ([b"\x00"], None, "invalid_json"),
        (["[]"], None, "invalid_json"),
        ([{"type": "sing"}], "type", "invalid_value"),
        ([{}], "type", "missing_required_parameter"),
        ([*texts("Hello")], "type", "unexpected_message"),
        ([{**START, "voice": "nobody"}], "voice", "unknown_voice"),
        ([{**START, "model": "tts-1"}], "model", "model_not_found"),
        ([{**START, "speed": 9}], "speed", "invalid_value"),
        ([{"type": "start", "voice": "Ethan"}], "model", "missing_required_parameter"),
        ([START, START], "type", "unexpected_message"),
        ([START, {"type": "end"}], "text", "invalid_value"),
        ([START, *texts(" "), {"type": "end"}], "text", "invalid_value"),
        ([START, {"type": "text", "text": 5}], "text", "invalid_type"),
        ([START, *texts("x" * 4000, "x" * 97)], "text", "string_above_max_length"),
    ],
)
def test_faults_are_told_and_close_the_socket(told: OpenAI, messages: Any, param: str | None, code: str) -> None:
    with socket_of(str(told.base_url).removesuffix("/v1/")) as socket:
        for message in messages:
            socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
        _, last = hear(socket)
        assert last["type"] == "error" and (last["error"]["param"], last["error"]["code"]) == (param, code)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=20)
    assert caught.value.rcvd and caught.value.rcvd.code == 1008


@pytest.mark.parametrize(("end", "code"), CUTS)
def test_a_speech_that_is_cut_is_told(end: Any, code: str) -> None:
    with serving(hub_of(Scripted(sound(), end))) as address, socket_of(address) as socket:
        say(socket, START, *texts("Hello"), {"type": "end"})
        _, last = hear(socket)
        assert last["error"]["code"] == code and "secret" not in last["error"]["message"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [(Limits(idle_seconds=0.5), "idle_timeout"), (Limits(session_seconds=0.5), "session_expired")],
)
def test_a_silent_client_is_told_and_let_go(omni: Omni, limits: Limits, code: str) -> None:
    with serving(hub_of(omni, Settings(limits=limits))) as address, socket_of(address) as socket:
        say(socket, START, *texts("He"))
        _, last = hear(socket)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
        assert last["error"]["code"] == code and idle(omni)


def test_a_client_that_leaves_in_the_middle_frees_the_engine(omni: Omni) -> None:
    with serving(hub_of(omni)) as address:
        with socket_of(address) as socket:
            say(socket, START, *texts("I see a red circle. " * 20))
            assert socket.recv(timeout=60)
        assert idle(omni)


def idle(omni: Omni) -> bool:
    """Whether the engine has nothing to do any more, within a while."""
    deadline = time.monotonic() + 20
    while omni.engine._num_open and time.monotonic() < deadline:
        omni.ping(1)
    return omni.engine._num_open == 0


def test_closing_the_socket_ends_the_speech() -> None:
    class Endless(Eager):
        async def asay(self, text: Spoken | AsyncIterable[str], **options: Any) -> AsyncGenerator[Event]:
            try:
                self.begun.set()
                while True:
                    yield sound(0.1)
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

    omni = Endless()
    with serving(hub_of(omni)) as address:
        with socket_of(address) as socket:
            say(socket, START)
            assert omni.begun.wait(20) and socket.recv(timeout=20)
        assert omni.ended.wait(20)
