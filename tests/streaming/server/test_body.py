"""Bodies on a real socket: refused while they are still being sent, packed, and asked for by HEAD."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from omni.streaming.server import body as module
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL, hub_of
from tests.streaming.running import Place, Still, everything, running

KEY = "a-key-of-the-server-0123456789"
OWN = {"authorization": f"Bearer {KEY}"}
SLOW = 0.6
MOST = 1 << 20
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    limits = replace(Limits(), body_bytes=MOST, slow_seconds=SLOW)
    with running(hub_of(Still(), Settings(keys=(KEY,), limits=limits))) as place:
        yield place


def head(path: str, *lines: str, host: str = "127.0.0.1") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


@pytest.mark.parametrize("size", [10_000, 3_000_001], ids=["small", "large"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(
    ("path", "key", "host", "status"),
    [
        (CHAT, "wrong", "127.0.0.1", 401),
        (CHAT, KEY, "evil.example", 421),
        ("/v1/nothing", KEY, "127.0.0.1", 404),
        ("/v1/models", KEY, "127.0.0.1", 405),
    ],
)
def test_a_client_that_sends_on_hears_why_not(
    place: Place, path: str, key: str, host: str, status: int, framing: str, size: int
) -> None:
    """It sends all before it reads, in pieces with pauses, as most programs do: no reset may come first."""
    chunked = framing == "chunks"
    if size > MOST and key == KEY and host == "127.0.0.1" and not chunked:
        status = 413  # as was announced
    answer, told = refusal(place, path, key, host, chunked=chunked, body=bytes(size))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer.lower()
    assert json.loads(told)["error"]["message"]


def test_more_than_was_announced_is_heard_too(place: Place) -> None:
    answer, _ = refusal(place, CHAT, KEY, "127.0.0.1", chunked=True, body=bytes(3 * MOST))
    assert answer.startswith(b"HTTP/1.1 413 ")


def refusal(place: Place, path: str, key: str, host: str, *, chunked: bool, body: bytes) -> tuple[bytes, bytes]:
    """Head and body of what is heard by a client that sends all of a request first, with pauses."""
    line = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    with place.connect() as raw:
        raw.sendall(head(path, f"Authorization: Bearer {key}", line, host=host))
        for at in range(0, len(body), 1 << 18):
            piece = body[at : at + (1 << 18)]
            raw.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            time.sleep(0.01)
        raw.sendall(b"0\r\n\r\n" if chunked else b"")
        answer, _, told = everything(raw).partition(b"\r\n\r\n")
    return answer, told


def test_a_draining_server_is_heard_too() -> None:
    hub = hub_of(Still())
    with running(hub) as place, place.connect() as raw:
        hub.draining = True
        raw.sendall(head(CHAT, "Content-Length: 3000000"))
        for _ in range(30):
            raw.sendall(bytes(100_000))
        assert everything(raw).startswith(b"HTTP/1.1 503 ")


def test_who_expects_a_word_first_gets_the_last(place: Place) -> None:
    """`Expect: 100-continue`: the refusal comes instead of "go on", and nothing of the body is waited for long."""
    with place.connect() as raw:
        raw.sendall(head(CHAT, "Content-Length: 3000000", "Expect: 100-continue"))
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        began = time.monotonic()
        assert everything(raw).count(b"HTTP/1.1") == 0
        assert time.monotonic() - began < 2 * SLOW


def sends_until_cut(raw: socket.socket, piece: bytes, pause: float, most: float) -> float:
    """The seconds for which a client may go on sending."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < most:
            raw.sendall(piece)
            time.sleep(pause)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("pause", [0.02, 0.1])
def test_nobody_holds_a_place_by_sending_for_ever(place: Place, pause: float) -> None:
    with place.connect() as raw:
        raw.sendall(head(CHAT, "Content-Length: 999999999"))
        assert sends_until_cut(raw, b"x", pause, 10 * SLOW) < 2 * module.LEFT_FACTOR * SLOW


def test_bytes_after_a_refusal_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEFT_BYTES", 1 << 20)
    with place.connect() as raw:
        raw.sendall(head(CHAT, "Content-Length: 999999999"))
        assert sends_until_cut(raw, bytes(1 << 18), 0.01, SLOW) < SLOW


HELLO = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello" * 1000}]}).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed", "status"),
    [
        ("gzip", gzip.compress(HELLO, mtime=0), 200),
        ("GZIP", gzip.compress(HELLO, mtime=0), 200),
        ("x-gzip", gzip.compress(HELLO[:7], mtime=0) + gzip.compress(HELLO[7:], mtime=0), 200),
        ("deflate", zlib.compress(HELLO), 200),
        ("deflate", raw_deflate(HELLO), 200),
        ("identity", HELLO, 200),
        ("", HELLO, 200),
        ("gzip", HELLO, 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(HELLO, mtime=0)[:-5], 400),
        ("gzip", gzip.compress(HELLO, mtime=0) + b"more", 400),
        ("deflate", zlib.compress(HELLO) + b"more", 400),
        ("deflate", zlib.compress(HELLO)[:-1], 400),
        ("deflate", b"x", 400),
        ("gzip", gzip.compress(b"{", mtime=0), 400),
        ("br", HELLO, 415),
        ("zstd", HELLO, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(HELLO, mtime=0)), 415),
        ("gzip", gzip.compress(b"[" + b" " * 40 * MOST, 1, mtime=0), 413),
        ("deflate", zlib.compress(bytes(MOST + 1)), 413),
    ],
)
@pytest.mark.parametrize("split", [None, 1000])
def test_packed_bodies(place: Place, coding: str, packed: bytes, status: int, split: int | None) -> None:
    """With their length, or in pieces without."""
    pieces = [packed[at : at + split] for at in range(0, len(packed), split)] if split else packed
    headers = {**OWN, "content-type": "application/json", "content-encoding": coding}
    answer = place.post(CHAT, content=iter(pieces) if isinstance(pieces, list) else pieces, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 415:
        assert "gzip or deflate" in answer.json()["error"]["message"]
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_inflating_takes_little_at_once() -> None:
    inflater = module._Inflater("gzip")
    inflater.give(gzip.compress(bytes(5 * module.PIECE)))
    sizes = []
    while piece := inflater.take():
        sizes.append(len(piece))
    assert (max(sizes), sum(sizes), inflater.size) == (module.PIECE, 5 * module.PIECE, 5 * module.PIECE)
    inflater.check_end()


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", f"/v1/models/{MODEL}", "/v1/audio/voices", "/openapi.json"])
def test_head_is_get_without_the_body(place: Place, path: str) -> None:
    got, told = place.get(path, headers=OWN), place.ask("HEAD", path, headers=OWN)
    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["content-length"] == str(len(got.content))
    assert told.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(("path", "key", "status"), [("/v1/models", "wrong", 401), ("/nothing", KEY, 404), (CHAT, KEY, 405)])
def test_head_of_what_is_not_there(place: Place, path: str, key: str, status: int) -> None:
    answer = place.ask("HEAD", path, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.content) == (status, b"")


def test_a_body_that_stands_still_is_not_waited_for() -> None:
    """However much of it has come before."""
    with running(hub_of(Still(), Settings(limits=replace(Limits(), slow_seconds=SLOW)))) as place, place.connect() as raw:
        raw.sendall(head(CHAT, "Content-Type: application/json", "Content-Length: 9000000") + b" " * 3_000_000)
        began = time.monotonic()
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 6 * SLOW
