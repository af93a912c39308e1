"""A table of attacks on the whole server, each with what it gets; and a conversation that goes on beside them.

Nothing leaves this machine: other hosts are functions, and names resolve as a test says.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from omni import Budget, Omni
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL
from tests.streaming.files import boastful_clip, clip, picture, sound, vast_picture
from tests.streaming.running import Place, everything, running

KEY = "a-key-of-the-server-0123456789"
OWN = {"authorization": f"Bearer {KEY}"}
LIMITS = Limits(body_bytes=2 << 20, media_bytes=1 << 20, socket_bytes=1 << 20, slow_seconds=0.5, decode_seconds=5)
SOCKET = f"/v1/realtime?model={MODEL}"


def careful(omni: Omni) -> Omni:
    """The small model under a smaller budget, so that what exceeds it is quickly made."""
    runtime = copy(omni.runtime)
    runtime.reader = replace(runtime.reader, budget=Budget(max_pixels=1_000_000, max_frames=100, max_seconds=30))
    return Omni(runtime)


def elsewhere(request: httpx.Request) -> httpx.Response:
    """The internet: one picture, a redirect into the private network, and whoever should not have been asked."""
    assert request.url.host == "93.184.216.34"
    match request.url.path:
        case "/cat.png":
            return httpx.Response(200, stream=Stream(picture()))
        case "/inside":
            return httpx.Response(302, headers={"location": "https://10.0.0.1/cat.png"})
        case "/rebound":
            return httpx.Response(302, headers={"location": "https://inside.example/cat.png"})
        case _:
            return httpx.Response(302, headers={"location": "http://169.254.169.254/latest/meta-data/"})


class Stream(httpx.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> Any:
        yield self.data


async def resolve(host: str) -> Sequence[str]:
    return ["10.0.0.1"] if host == "inside.example" else ["93.184.216.34"]


@pytest.fixture(scope="module")
def hub(omni: Omni, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    folder = tmp_path_factory.mktemp("served") / "media"
    folder.mkdir()
    (folder / "cat.png").write_bytes(picture())
    (folder.parent / "secret.png").write_bytes(picture())
    (folder / "way-out.png").symlink_to(folder.parent / "secret.png")
    os.mkfifo(folder / "pipe.png")
    settings = Settings(keys=(KEY,), media_domains=("media.example", "inside.example"), media_folder=folder, limits=LIMITS)
    hub = Hub(careful(omni), MODEL, settings)
    hub.remote.resolve, hub.remote.transport = resolve, httpx.MockTransport(elsewhere)
    return hub


@pytest.fixture(scope="module")
def place(hub: Hub) -> Iterator[Place]:
    with running(hub, ws_ping_interval=0.4, ws_ping_timeout=0.4) as place:
        yield place
    assert (hub.counts.requests, hub.counts.sessions.total()) == (0, 0)
    assert (hub.metrics.num_running, hub.metrics.num_waiting) == (0, 0)


# ---- media


def looks_at(part: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": [part, {"type": "text", "text": "Hello"}]}],
        "max_tokens": 2,
    }


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def heard(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def watched(data: bytes) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(data, "video/mp4")}}


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


MEDIA: dict[str, tuple[Callable[[Path], dict[str, Any]], int]] = {
    "allowed URL": (lambda _: image("https://media.example/cat.png"), 200),
    "allowed file": (lambda folder: image(f"file://{folder}/cat.png"), 200),
    "private address": (lambda _: image("https://10.0.0.1/cat.png"), 400),
    "loopback": (lambda _: image("https://127.0.0.1/cat.png"), 400),
    "loopback without TLS": (lambda _: image("http://127.0.0.1/cat.png"), 400),
    "link-local": (lambda _: image("http://169.254.169.254/latest/meta-data/"), 400),
    "IPv6": (lambda _: image("https://[::1]/cat.png"), 400),
    "IPv4 mapped to IPv6": (lambda _: image("https://[::ffff:127.0.0.1]/cat.png"), 400),
    "decimal host": (lambda _: image("https://2130706433/cat.png"), 400),
    "octal host": (lambda _: image("https://0177.0.0.1/cat.png"), 400),
    "hexadecimal host": (lambda _: image("https://0x7f.1/cat.png"), 400),
    "name at a private address": (lambda _: image("https://inside.example/cat.png"), 400),
    "redirect to a private address": (lambda _: image("https://media.example/inside"), 400),
    "redirect to a name at a private address": (lambda _: image("https://media.example/rebound"), 400),
    "redirect out of TLS": (lambda _: image("https://media.example/metadata"), 400),
    "user in the URL": (lambda _: image("https://media.example@evil.example/cat.png"), 400),
    "backslash in the URL": (lambda _: image("https://evil.example\\@media.example/cat.png"), 400),
    "other scheme": (lambda _: image("gopher://media.example/cat.png"), 400),
    "protocol of FFmpeg": (lambda folder: image(f"concat:{folder}/cat.png|/etc/passwd"), 400),
    "traversal": (lambda folder: image(f"file://{folder}/../secret.png"), 400),
    "encoded traversal": (lambda folder: image(f"file://{folder}/%2e%2e/secret.png"), 400),
    "encoded slash": (lambda folder: image(f"file://{folder}/..%2fsecret.png"), 400),
    "link out of the folder": (lambda folder: image(f"file://{folder}/way-out.png"), 400),
    "pipe": (lambda folder: image(f"file://{folder}/pipe.png"), 400),
    "NUL in the path": (lambda folder: image(f"file://{folder}/cat.png%00.txt"), 400),
    "bare path": (lambda folder: image(f"{folder}/cat.png"), 400),
    "bare path as a video": (lambda folder: {"type": "video_url", "video_url": {"url": f"{folder}/cat.png"}}, 400),
    "PNG of 60000 x 60000": (lambda _: image(data_url(vast_picture())), 413),
    "long silence as FLAC": (lambda _: heard(sound("flac", "flac", seconds=600, rate=8000, level=0), "flac"), 413),
    "long silence as opus": (lambda _: heard(sound("ogg", "libopus", seconds=60, rate=8000, level=0), "ogg"), 413),
    "video of 10^9 frames": (lambda _: watched(boastful_clip()), 413),
    "long video of one colour": (lambda _: watched(clip(frames=120, fps=1)), 413),
    "many frames": (lambda _: watched(clip(frames=150, fps=25)), 413),
    "video that is no video": (lambda _: watched(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), 400),
    "sound that is a picture": (lambda _: heard(picture()), 400),
    "huge base64": (lambda _: image("data:image/png;base64," + "A" * (3 << 19)), 413),
    "bad base64": (lambda _: image("data:image/png;base64,AAA%"), 400),
    "base64 cut short": (lambda _: image(data_url(picture())[:-3]), 400),
    "no base64": (lambda _: image("data:image/svg+xml,<svg/>"), 400),
    "many pictures": (
        lambda _: {"type": "text", "text": "", "more": [image(data_url(picture()))] * 40},
        400,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEDIA)
def test_media(place: Place, hub: Hub, name: str) -> None:
    make, status = MEDIA[name]
    assert hub.settings.media_folder
    part = make(hub.settings.media_folder)
    body = looks_at(part)
    if more := part.pop("more", None):
        body["messages"][0]["content"] += more
    answer = place.post("/v1/chat/completions", json=body, headers=OWN)
    assert answer.status_code == status, answer.text
    if status != 200:
        for inside in ("Errno", "0x", "Traceback", "10.0.0.1", "secret", str(hub.settings.media_folder)):
            assert inside not in answer.json()["error"]["message"]


def test_nothing_is_opened_but_by_the_processes_that_decode(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture, a sound, a clip with its sound and a recording are read while this process can open none of them."""
    film, song = clip(tone=True, frames=11), sound("ogg", "libopus", seconds=1.5)
    parts = [image(data_url(picture(width=91))), heard(song, "ogg"), watched(film)]

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("opened here")

    for module in (av, Image):
        monkeypatch.setattr(module, "open", opened)
    for part in parts:
        answer = place.post("/v1/chat/completions", json=looks_at(part), headers=OWN)
        assert answer.status_code == 200, answer.text
    for file in (song, film):
        form = {"files": {"file": ("a", file)}, "data": {"model": MODEL}}
        answer = place.post("/v1/audio/transcriptions", headers=OWN, **form)
        assert answer.status_code == 200, answer.text


# ---- HTTP


def chunked(size: int) -> bytes:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    return piece * (size // 0x10000 + 1) + b"0\r\n\r\n"


def post(headers: bytes, body: bytes = b"", path: bytes = b"/v1/chat/completions") -> bytes:
    own = f"Authorization: Bearer {KEY}\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return b"POST " + path + b" HTTP/1.1\r\n" + own.encode() + headers + b"\r\n" + body


def get(target: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + headers + b"\r\n"


BEARER = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
HTTP: dict[str, tuple[bytes, int]] = {
    "no key": (get(b"/v1/models"), 401),
    "wrong key": (get(b"/v1/models", b"Authorization: Bearer wrong\r\n"), 401),
    "key cut short": (get(b"/v1/models", BEARER[:-3] + b"\r\n"), 401),
    "key in the query": (get(b"/v1/models?api_key=" + KEY.encode()), 401),
    "key in a cookie": (get(b"/v1/models", b"Cookie: key=" + KEY.encode() + b"\r\n"), 401),
    "key in another header": (get(b"/v1/models", b"X-Api-Key: " + KEY.encode() + b"\r\n"), 401),
    "key as a subprotocol of HTTP": (
        get(b"/v1/models", b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key." + KEY.encode() + b"\r\n"), 401
    ),
    "two keys": (get(b"/v1/models", BEARER + b"Authorization: Bearer wrong\r\n"), 401),
    "open path before a closed one": (get(b"/health/../v1/models"), 401),
    "closed path with a page's name": (get(b"/v1/models/index.html"), 401),
    "path that names another host": (get(b"http://127.0.0.1/health/v1/models"), 401),
    "other host": (get(b"/health").replace(b"127.0.0.1", b"evil.example"), 421),
    "no host": (b"GET /health HTTP/1.0\r\n\r\n", 421),
    "host with a user": (get(b"/health").replace(b"127.0.0.1", b"127.0.0.1@evil.example"), 421),
    "other site": (get(b"/health", b"Origin: https://evil.example\r\n"), 403),
    "no site": (get(b"/health", b"Origin: null\r\n"), 403),
    "traversal": (get(b"/../settings.py", BEARER), 404),
    "traversal below the page": (get(b"/js/../../settings.py", BEARER), 404),
    "encoded traversal": (get(b"/%2e%2e/settings.py", BEARER), 404),
    "encoded slashes": (get(b"/..%2fsettings.py", BEARER), 404),
    "encoded backslashes": (get(b"/..%5csettings.py", BEARER), 404),
    "double encoding": (get(b"/%252e%252e/settings.py", BEARER), 404),
    "absolute path": (get(b"//etc/passwd", BEARER), 404),
    "NUL in the path": (get(b"/index.html%00.png", BEARER), 404),
    "no UTF-8 in the path": (get(b"/%ff%fe", BEARER), 404),
    "body beyond the limit": (post(b"Content-Length: 2097153\r\n", b"x" * 100), 413),
    "chunks beyond the limit": (post(b"Transfer-Encoding: chunked\r\n", chunked(2 << 20)), 413),
    "absurd length": (post(b"Content-Length: 99999999999999999\r\n"), 413),
    "length beyond all numbers": (post(b"Content-Length: " + b"9" * 400 + b"\r\n"), 400),
    "negative length": (post(b"Content-Length: -1\r\n"), 400),
    "two lengths": (post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"x"), 400),
    "length and chunks": (post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400),
    "chunk without end": (post(b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n"), 408),
    "chunk of a size that is none": (post(b"Transfer-Encoding: chunked\r\n", b"-1\r\n"), 400),
    "body that never comes": (post(b"Content-Length: 100\r\n", b"{"), 408),
    "nesting": (post(b"Content-Length: 20000\r\n", b"[" * 10_000 + b"]" * 10_000), 400),
    "head without end": (b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000, 400),
    "no HTTP": (b"\x00\x01\x02\x03\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", HTTP)
def test_http(place: Place, name: str) -> None:
    request, status = HTTP[name]
    answer = place.say(request)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:500]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error"]["message"]
    assert KEY.encode() not in answer
    assert b"server:" not in head.lower()


# ---- sockets


def opened(place: Place, path: str = SOCKET, headers: dict[str, str] | None = None, offered: Sequence[str] = ()) -> Any:
    protocols = cast(Any, list(offered) or None)
    return connect(
        place.ws + path,
        additional_headers=OWN if headers is None else headers,
        subprotocols=protocols,
        proxy=None,
        max_size=None,
        ping_interval=None,
    )


SOCKETS: dict[str, tuple[dict[str, Any], int]] = {
    "no key": ({"headers": {}}, 401),
    "wrong key": ({"headers": {"authorization": "Bearer wrong"}}, 401),
    "key in the query": ({"headers": {}, "path": f"{SOCKET}&api_key={KEY}"}, 401),
    "wrong key as a subprotocol": ({"headers": {}, "offered": ["realtime", "openai-insecure-api-key.wrong"]}, 401),
    "key as a bare subprotocol": ({"headers": {}, "offered": ["realtime", KEY]}, 401),
    "two keys": ({"headers": OWN, "offered": ["realtime", f"openai-insecure-api-key.{KEY}"]}, 401),
    "forged client secret": ({"headers": {"authorization": "Bearer ek_" + "A" * 43}}, 401),
    "other site": ({"headers": {**OWN, "origin": "https://evil.example"}}, 403),
    "sandboxed page": ({"headers": {**OWN, "origin": "null"}}, 403),
    "same name, other port": ({"headers": {**OWN, "origin": "http://127.0.0.1:1"}}, 403),
    "other path": ({"path": "/v1/other"}, 404),
    "open path": ({"path": "/health", "headers": {}}, 401),
    "other model": ({"path": "/v1/realtime?model=other"}, 404),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_sockets_that_are_refused(place: Place, name: str) -> None:
    how, status = SOCKETS[name]
    with pytest.raises(InvalidStatus) as refused:
        opened(place, **how)
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(bytes(response.body or b""))["error"]["message"]
    assert KEY not in str(response)


def test_key_as_a_subprotocol_is_not_told_back(place: Place) -> None:
    with opened(place, headers={}, offered=["realtime", f"openai-insecure-api-key.{KEY}"]) as client:
        assert client.subprotocol == "realtime"
        assert KEY not in str(client.response)


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(fin << 7) | (reserved << 4) | opcode])
    size, mask = len(payload), b"\x01\x02\x03\x04" if masked else b""
    if size < 126:
        head += bytes([(masked << 7) | size])
    elif size < 1 << 16:
        head += bytes([(masked << 7) | 126]) + struct.pack(">H", size)
    else:
        head += bytes([(masked << 7) | 127]) + struct.pack(">Q", size)
    if masked:
        key = np.frombuffer(mask * (size // 4 + 1), np.uint8)[:size]
        payload = (np.frombuffer(payload, np.uint8) ^ key).tobytes()
    return head + mask + payload


def shaken(place: Place, **options: int) -> socket.socket:
    """A raw connection on which the handshake was done."""
    raw = place.connect(**options)
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    raw.sendall(f"GET {SOCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + BEARER + upgrade + key + b"\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return raw


FRAMES: dict[str, tuple[bytes, int]] = {
    "larger than allowed": (frame(1, b"x" * ((1 << 20) + 1)), 1009),
    "larger than allowed, in its header": (frame(1, b"")[:1] + b"\xff" + struct.pack(">Q", 1 << 40), 1009),
    "larger than allowed in pieces": (
        frame(1, b"x" * (1 << 19), fin=False) + frame(0, b"x" * (1 << 19), fin=False) + frame(0, b"xx"), 1009
    ),
    "no UTF-8": (frame(1, b"\xff\xfe"), 1007),
    "without a mask": (frame(1, b"{}", masked=False), 1002),
    "compressed without asking": (frame(1, b"{}", reserved=4), 1002),
    "unknown kind": (frame(3, b"{}"), 1002),
    "rest of nothing": (frame(0, b"{}"), 1002),
    "ping in pieces": (frame(9, b"x", fin=False), 1002),
    "long ping": (frame(9, b"x" * 126), 1002),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_end_a_socket(place: Place, name: str) -> None:
    data, code = FRAMES[name]
    with shaken(place) as raw:
        with suppress(ConnectionResetError, BrokenPipeError):  # it may have answered and gone before it has all
            raw.sendall(data)
        answer = everything(raw)
    assert struct.pack(">H", code) in answer[-130:], answer[-130:]


EVENTS: dict[str, str | bytes] = {
    "no JSON": "hello",
    "nothing": "",
    "nesting": "[" * 10_000 + "]" * 10_000,
    "nesting of objects": '{"type":' * 10_000 + "1" + "}" * 10_000,
    "NaN": '{"type": NaN}',
    "lone surrogate": '{"type": "\\ud800"}',
    "list": "[]",
    "bytes": b"\x00\x01",
    "unknown type": '{"type": "session.destroy"}',
    "type that is no text": '{"type": {"type": "session.update"}}',
    "bad base64": '{"type": "input_audio_buffer.append", "audio": "AAA%"}',
    "picture by path": json.dumps(
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "/etc/passwd"}]},
        }
    ),
    "picture in the private network": json.dumps(
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message", "role": "user",
                "content": [{"type": "input_image", "image_url": "https://inside.example/cat.png"}],
            },
        }
    ),
    "vast picture": json.dumps(
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message", "role": "user",
                "content": [{"type": "input_image", "image_url": data_url(vast_picture())}],
            },
        }
    ),
    "huge number": '{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1e999}',
}  # fmt: skip


def test_events_that_are_refused_leave_the_session_as_it_is(place: Place) -> None:
    with opened(place) as client:
        assert json.loads(client.recv(5))["type"] == "session.created"
        for name, event in EVENTS.items():
            client.send(event)
            told = json.loads(client.recv(10))
            assert (name, told["type"]) == (name, "error")
            assert told["error"]["message"]
        assert say_hello(client)


def say_hello(client: Any) -> str:
    """Text that the model answers."""
    content = [{"type": "input_text", "text": "What is two plus three?"}]
    client.send(
        json.dumps({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}})
    )
    client.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
    while (event := json.loads(client.recv(20)))["type"] != "response.done":
        assert event["type"] != "error", event
    text: str = event["response"]["output"][0]["content"][0]["text"]
    return text


def gone(hub: Hub) -> bool:
    deadline = time.monotonic() + 10
    while hub.counts.sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    return not hub.counts.sessions


def test_half_open_socket(place: Place, hub: Hub) -> None:
    """The other side is there and says nothing more, not even a pong."""
    with shaken(place) as raw:
        assert hub.counts.sessions
        assert gone(hub)
        everything(raw)


def test_client_that_never_reads(place: Place, hub: Hub) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 50_000}]}
    event = frame(1, json.dumps({"type": "conversation.item.create", "item": item}).encode())
    with shaken(place, SO_RCVBUF=4096) as raw:
        raw.settimeout(5)
        try:
            for _ in range(400):
                raw.sendall(event)
        except (TimeoutError, ConnectionError):
            pass
        assert gone(hub)


def test_pings_whose_pongs_nobody_reads(place: Place, hub: Hub) -> None:
    with shaken(place, SO_RCVBUF=4096) as raw:
        raw.settimeout(5)
        try:
            for _ in range(2000):
                raw.sendall(frame(9, b"x" * 125) * 100)
        except (TimeoutError, ConnectionError):
            pass
        assert gone(hub)


def test_clients_that_vanish(place: Place, hub: Hub) -> None:
    """In the middle of the handshake, of a frame, of an answer; with a reset."""
    for data in (b"", frame(1, b"{}")[:3], frame(1, b'{"type": "response.create"}')):
        raw = shaken(place)
        raw.sendall(data)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    assert gone(hub)


# ---- beside a conversation


def answer_of(place: Place) -> tuple[str, bytes]:
    """A spoken answer, streamed: its words and its sound."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is two plus three?"}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "Chelsie", "format": "pcm16"},
        "stream": True,
        "seed": 1,
    }
    text, data = "", b""
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", f"{place.url}/v1/chat/completions", json=body, headers=OWN) as answer,
    ):
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    audio = choice["delta"].get("audio") or {}
                    text += audio.get("transcript", "")
                    data += base64.b64decode(audio.get("data", ""))
    return text, data


def test_a_conversation_goes_on_beside_them(place: Place, hub: Hub) -> None:
    """The same words and the same sound as alone, while all of the above runs as fast as it can; and a socket stays open."""
    alone = answer_of(place)
    assert alone[0]
    assert alone[1]
    over = threading.Event()
    folder = hub.settings.media_folder
    assert folder
    bombs = [looks_at(MEDIA[name][0](folder)) for name, (_, status) in MEDIA.items() if status == 413]
    done = [0, 0, 0]

    def media() -> None:
        while not over.is_set():
            for body in bombs:
                place.post("/v1/chat/completions", json=body, headers=OWN)
                done[0] += 1

    def http() -> None:
        while not over.is_set():
            for request, status in HTTP.values():
                if status != 408:
                    place.say(request)
                    done[1] += 1

    def sockets() -> None:
        while not over.is_set():
            for data, _ in FRAMES.values():
                with shaken(place) as raw:
                    raw.sendall(data)
                    everything(raw)
                    done[2] += 1

    with connect(place.ws + SOCKET, additional_headers=OWN, proxy=None) as beside, ThreadPoolExecutor(3) as threads:
        beside.recv(5)
        working = [threads.submit(work) for work in (media, http, sockets)]
        try:
            assert answer_of(place) == alone
            assert say_hello(beside)
        finally:
            over.set()
        for work in working:
            work.result(60)
    assert min(done) > 0
