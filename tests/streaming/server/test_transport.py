"""Connections that somebody tries to hold open for nothing, on a real socket."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast
from unittest.mock import Mock

import h11
import pytest

from omni import TextDelta
from omni.streaming.server import transport
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL, done, hub_of
from tests.streaming.running import Place, Still, everything, running

SLOW = 0.3
LONG = [TextDelta("x" * 100_000)] * 150


def place_of(omni: Still | None = None, **limits: Any) -> Any:
    return running(hub_of(omni or Still(), Settings(limits=replace(Limits(slow_seconds=SLOW), **limits))))


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"


def hello(stream: bool) -> bytes:
    """A request for an answer."""
    fields = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    body = json.dumps(fields).encode()
    return POST + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body


HANDSHAKE = b"\r\n".join([
    b"GET /v1/realtime?model=" + MODEL.encode() + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: Upgrade",
    b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13", b"", b"",
])  # fmt: skip


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with place_of() as place:
        yield place


UPLOAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b'Content-Length: 30000\r\n\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A:"])
def test_head_that_does_not_come(place: Place, head: bytes) -> None:
    with place.connect() as raw:
        began = time.monotonic()
        raw.sendall(head)
        assert everything(raw) == b""
        assert 0.5 * SLOW < time.monotonic() - began < 10 * SLOW


def test_head_that_comes_byte_by_byte(place: Place) -> None:
    """Slow loris: each byte is in time, the whole is not."""
    with place.connect() as raw:
        began = time.monotonic()
        try:
            for byte in b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000:
                raw.sendall(bytes([byte]))
                raw.settimeout(SLOW / 10)
                try:
                    if raw.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert 0.5 * SLOW < time.monotonic() - began < 10 * SLOW


def test_second_head_that_does_not_come(place: Place) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with place.connect() as raw:
        raw.sendall(request)
        first = b""
        while not first.endswith(b"}"):
            first += raw.recv(1 << 16)
        began = time.monotonic()
        raw.sendall(b"GET /heal")
        assert everything(raw) == b""
        assert time.monotonic() - began < 10 * SLOW


def test_body_that_does_not_come(place: Place) -> None:
    began = time.monotonic()
    answer = place.say(POST + b"Content-Length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert 0.5 * SLOW < time.monotonic() - began < 10 * SLOW


def test_head_that_is_too_long(place: Place) -> None:
    answer = place.say(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-A: " + b"b" * (80 << 10))
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",  # TLS
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1e3\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\x00c\r\n\r\n",
        b"GET /health HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: \xff\r\n\r\n"),
        HANDSHAKE.replace(b"Version: 13", b"Version: \xff"),
        HANDSHAKE.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff"),
        HANDSHAKE.replace(b"GET", b"POST"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
    ],
)
def test_what_is_no_http(place: Place, request_bytes: bytes) -> None:
    head, _, body = place.say(request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"
    assert place.get("/health").status_code == 200


def test_chunks_that_are_none() -> None:
    """While the answer is on its way already there is nobody to tell: the connection ends."""
    with place_of(Still(TextDelta("a"), None)) as place, place.connect() as raw:
        raw.sendall(hello(stream=True))
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        everything(raw)
        assert place.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_does_not_read(stream: bool) -> None:
    """It is cut off, and its answer ended, though it keeps the connection."""
    omni = Still(*LONG, done())
    with place_of(omni) as place, place.connect(SO_RCVBUF=4096) as raw:
        raw.sendall(hello(stream))
        assert omni.ended.wait(10)
        deadline = time.monotonic() + 10
        while place.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not place.server.server_state.connections


def test_client_that_reads_slowly_is_waited_for() -> None:
    with place_of(Still(*LONG[:30], done())) as place, place.connect(SO_RCVBUF=1 << 16) as raw:
        raw.sendall(hello(stream=True))
        began = time.monotonic()
        while time.monotonic() - began < 5 * SLOW:
            raw.recv(20_000)
            time.sleep(SLOW / 15)
        assert everything(raw).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SPARE", 0)
    with place_of(requests=1, sessions=2, slow_seconds=20) as place:
        held = [place.connect() for _ in range(3)]
        deadline = time.monotonic() + 5
        while len(place.server.server_state.connections) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert place.get("/health").status_code == 200
        assert everything(held[0]) == b""  # the oldest, which had asked for nothing
        for raw in held:
            raw.close()
        while place.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert place.get("/health").status_code == 200


TEXT = b"\x81\x82\0\0\0\0"
"""The head of a text message of two bytes."""


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([HANDSHAKE, TEXT + b"\xff\xfe"], "is no UTF-8"),
        ([HANDSHAKE, b"\x01\x81\0\0\0\0\xc3", b"\x80\x81\0\0\0\0A"], "is no UTF-8"),  # a message in two frames
        ([HANDSHAKE, b"\x82\x85\0\0\0\0abc"], ""),  # which ends within a message
        ([b"GET /v1/models/%ff%fe?x=%ff HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: \xff\r\n\r\n"], ""),
        ([POST + b"Content-Length: 13\r\n\r\n" + b'{"model":"\xff"}'], ""),
        ([POST + b"Content-Length: 30000\r\n\r\n", bytes(20_000)], ""),
        ([UPLOAD + b"\xff" * 20_000], "left before it had sent all of it"),
        ([b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], "no HTTP request that can be read"),
    ],
)
@pytest.mark.parametrize("end", ["closed", "reset"])
def test_one_line_in_the_log_for_what_a_client_sends(
    place: Place, caplog: pytest.LogCaptureFixture, sent: list[bytes], words: str, end: str
) -> None:
    raw = place.connect()
    for piece in sent:
        raw.sendall(piece)
        time.sleep(0.03)
    if end == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    deadline = time.monotonic() + 5
    while place.server.server_state.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [record for record in caplog.records if record.exc_info]
    assert [words in record.message for record in caplog.records] == [True] * bool(words)


def test_a_text_message_that_is_none_ends_the_socket_by_its_code(place: Place) -> None:
    with place.connect() as raw:
        raw.sendall(HANDSHAKE)
        time.sleep(0.05)
        raw.sendall(TEXT + b"\xff\xfe")
        assert everything(raw).endswith(b"\x88\x02\x03\xef")  # 1007


def test_a_buffer_that_tls_has_let_go_of_is_not_looked_at() -> None:
    class Released(transport._Patience):
        def __init__(self) -> None:
            self.transport = asyncio.sslproto._SSLProtocolTransport(cast(Any, None), cast(Any, None))
            self.transport._closed = True

    Released()._look()


def test_connection_that_is_reset(place: Place) -> None:
    raw = place.connect()
    raw.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    assert place.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["GET /v1/realtime", "POST /v1/realtime"])
def test_connections_that_are_held_keep_nobody_out(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Handshakes that are none, and heads that do not end: more than there may be."""
    monkeypatch.setattr(transport, "SPARE", 8)
    omni = Still(TextDelta("a"), None)
    with place_of(omni, requests=2, sessions=2, slow_seconds=20) as place, place.connect() as asking:
        asking.sendall(hello(stream=True))
        assert asking.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        held = [place.connect() for _ in range(30)]
        for raw in held:
            with suppress(OSError):
                raw.sendall(f"{path} HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 5\r\nX: ".encode())
        for _ in range(5):
            assert place.get("/health").status_code == 200
        assert len(place.server.server_state.connections) <= 12
        assert not omni.ended.is_set()
        for raw in held:
            raw.close()


def test_a_connection_in_any_state_is_ended() -> None:
    class Broken(transport.HttpProtocol):
        def __init__(self) -> None:
            self.transport = cast(Any, Mock())
            self.cycle = cast(Any, None)
            self.conn = cast(Any, Mock())
            cast(Any, self.conn).send.side_effect = h11.LocalProtocolError("in no state to end")

    broken = Broken()
    broken.shutdown()
    cast(Any, broken.transport).abort.assert_called_once()
