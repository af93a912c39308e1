"""The gate, driven message by message, before an application that tells what came through."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send

from omni import Omni
from omni.streaming.server.client_secrets import Secret
from omni.streaming.server.guard import Guard
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Limits, Settings

KEY = "a-key-of-the-server-0123456789"
HOST = (b"host", b"127.0.0.1:8000")
BEARER = (b"authorization", b"Bearer " + KEY.encode())
Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class Inside:
    """The application behind the gate: it reads the body, keeps what it saw, and answers 200."""

    scopes: list[Scope] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    wait: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "subprotocol": "realtime", "headers": []})
            if self.wait:
                await self.wait.wait()
            await send({"type": "websocket.close", "code": 1000})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if self.wait:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


@dataclass
class Answer:
    messages: list[Message]

    @property
    def status(self) -> int:
        first = self.messages[0]
        return 101 if first["type"] == "websocket.accept" else int(first["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.messages[1]["body"])["error"]
        return found


def hub_of(**fields: Any) -> Hub:
    return Hub(cast(Omni, SimpleNamespace()), "small", Settings(**fields))


async def ask(
    guard: Guard,
    path: str = "/v1/models",
    headers: Headers = (HOST,),
    *,
    socket: bool = False,
    offered: Sequence[str] = (),
    body: Sequence[bytes] = (b"",),
    scheme: str = "http",
) -> Answer:
    messages: list[Message] = []
    pieces = list(body)

    async def receive() -> Message:
        if not pieces:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        messages.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "scheme": scheme}
    if socket:
        scope.update(type="websocket", scheme=scheme.replace("http", "ws"), subprotocols=list(offered))
        scope["headers"].append((b"sec-websocket-protocol", ", ".join(offered).encode(errors="surrogateescape")))
    await guard(scope, receive, send)
    return Answer(messages)


def run(guard: Guard, *args: Any, **fields: Any) -> Answer:
    return asyncio.run(ask(guard, *args, **fields))


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([BEARER], 200),
        ([(b"authorization", b"bearer  " + KEY.encode())], 200),
        ([], 401),
        ([(b"authorization", b"Bearer")], 401),
        ([(b"authorization", b"Bearer wrong")], 401),
        ([(b"authorization", KEY.encode())], 401),
        ([(b"authorization", b"Basic " + KEY.encode())], 401),
        ([(b"authorization", b"Bearer " + KEY.upper().encode())], 401),
        ([(b"authorization", b"Bearer " + KEY[:-1].encode())], 401),
        ([(b"authorization", b"Bearer \xff\xfe")], 401),
        ([BEARER, BEARER], 401),
        ([(b"authorization", b"Bearer wrong"), BEARER], 401),
        ([(b"x-api-key", KEY.encode())], 401),
        ([(b"cookie", b"key=" + KEY.encode())], 401),
    ],
)
def test_key(headers: Headers, status: int, socket: bool) -> None:
    inside = Inside()
    hub = hub_of(keys=("another-key", KEY))
    got = run(Guard(inside, hub), "/v1/realtime", [HOST, *headers], socket=socket)
    assert got.status == (101 if socket and status == 200 else status)
    assert bool(inside.scopes) == (status == 200)
    if status == 401:
        assert (got.error["type"], got.error["code"]) == ("authentication_error", "invalid_api_key")
        assert got.headers["www-authenticate"] == "Bearer"
        assert hub.metrics.refusals.labels("key")._value.get() == 1


@pytest.mark.parametrize(
    ("offered", "status", "left"),
    [
        (["realtime", f"openai-insecure-api-key.{KEY}"], 101, ["realtime"]),
        ([f"openai-insecure-api-key.{KEY}", "realtime", "openai-agents-sdk.1"], 101, ["realtime", "openai-agents-sdk.1"]),
        (["realtime"], 401, None),
        (["realtime", "openai-insecure-api-key."], 401, None),
        (["realtime", KEY], 401, None),
        (["realtime", f"OPENAI-INSECURE-API-KEY.{KEY}"], 401, None),
        (["realtime", f"openai-insecure-api-key.{KEY}", "openai-insecure-api-key.wrong"], 401, None),
        (["realtime", "openai-insecure-api-key.\udcff"], 401, None),
    ],
)
def test_key_as_subprotocol(offered: list[str], status: int, left: list[str] | None) -> None:
    inside = Inside()
    got = run(
        Guard(inside, hub_of(keys=(KEY,))),
        "/v1/realtime",
        socket=True,
        offered=offered,
    )
    assert got.status == status
    if left is not None:
        assert inside.scopes[0]["subprotocols"] == left
        assert KEY not in repr([inside.scopes, got.messages])


def test_key_does_not_count_as_subprotocol_of_http() -> None:
    protocol = (b"sec-websocket-protocol", b"realtime, openai-insecure-api-key." + KEY.encode())
    assert run(Guard(Inside(), hub_of(keys=(KEY,))), "/v1/models", [HOST, protocol]).status == 401


def test_nothing_behind_the_gate_sees_the_key() -> None:
    inside = Inside()
    run(Guard(inside, hub_of(keys=(KEY,))), headers=[HOST, BEARER])
    assert KEY not in repr(inside.scopes)
    assert inside.scopes[0]["state"]["key"].startswith("key-")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200), ("/app.js", 200), ("/health", 200), ("/health/", 401), ("//health", 401),
        ("/health/../v1/models", 401), ("/app.js/", 401), ("/APP.JS", 401), ("/metrics", 401), ("/openapi.json", 401),
        ("/v1/models", 401), ("/nothing", 401),
    ],
)  # fmt: skip
def test_open_paths(path: str, status: int) -> None:
    guard = Guard(Inside(), hub_of(keys=(KEY,)), {"/", "/health", "/app.js"})
    assert run(guard, path).status == status
    assert run(guard, path, [HOST, (b"authorization", b"Bearer wrong")]).status == status
    assert run(guard, path, socket=True).status == 401


def test_open_to_all_without_keys() -> None:
    for headers in ([HOST], [HOST, BEARER]):
        assert run(Guard(Inside(), hub_of()), "/v1/models", headers).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"127.0.0.1")], 200),
        ([(b"host", b"LOCALHOST:1")], 200),
        ([(b"host", b"[::1]:8000")], 200),
        ([(b"host", b"192.168.1.7:8000")], 200),
        ([(b"host", b"voice.example")], 200),
        ([(b"host", b"evil.example")], 421),
        ([(b"host", b"voice.example.evil.example")], 421),
        ([(b"host", b"localhost.evil.example:8000")], 421),
        ([(b"host", b"127.0.0.1.evil.example")], 421),
        ([(b"host", b"evil.example#localhost")], 421),
        ([(b"host", b"localhost@evil.example")], 421),
        ([(b"host", b"localhost/")], 421),
        ([(b"host", b"local\thost")], 421),
        ([(b"host", b"localhost:")], 421),
        ([(b"host", b"localhost:99999999")], 421),
        ([(b"host", b"2130706433")], 421),
        ([(b"host", b"[::1")], 421),
        ([(b"host", b"\xff")], 421),
        ([(b"host", b"")], 421),
        ([], 421),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], 421),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_host(headers: Headers, status: int, path: str) -> None:
    guard = Guard(Inside(), hub_of(hosts=("voice.example",)))
    assert run(guard, path, headers).status == status
    assert run(guard, path, headers, socket=True).status == (101 if status == 200 else status)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (b"Voice.Example:8000", "start it with `--allow-host voice.example`, or use its address"),
        (b"<script>", "was asked by no name"),
    ],
)
def test_a_host_s_name_is_told_with_its_option(host: bytes, words: str) -> None:
    assert words in run(Guard(Inside(), hub_of()), headers=[(b"host", host)]).error["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ([], 200),
        ([b"http://127.0.0.1:8000"], 200),
        ([b"https://page.example"], 200),
        ([b"https://127.0.0.1:8000"], 403),
        ([b"http://127.0.0.1"], 403),
        ([b"http://127.0.0.1:8001"], 403),
        ([b"http://localhost:8000"], 403),
        ([b"https://page.example:443"], 403),
        ([b"https://page.example.evil.example"], 403),
        ([b"https://evil.example/https://page.example"], 403),
        ([b"http://page.example"], 403),
        ([b"null"], 403),
        ([b""], 403),
        ([b"\xff"], 403),
        ([b"http://127.0.0.1:8000", b"http://127.0.0.1:8000"], 403),
    ],
)
def test_origin(origin: list[bytes], status: int) -> None:
    guard = Guard(Inside(), hub_of(origins=("https://page.example",)))
    headers = [HOST, *((b"origin", value) for value in origin)]
    assert run(guard, "/v1/models", headers).status == status
    assert run(guard, "/v1/realtime", headers, socket=True).status == (101 if status == 200 else status)


def test_origin_behind_tls() -> None:
    guard, headers = Guard(Inside(), hub_of()), [HOST, (b"origin", b"https://127.0.0.1:8000")]
    assert run(guard, "/v1/realtime", headers, socket=True, scheme="https").status == 101
    assert run(guard, "/v1/realtime", headers, socket=True).status == 403


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([b"abc-DEF_0.9"], True),
        ([b"x" * 64], True),
        ([], False),
        ([b""], False),
        ([b"x" * 65], False),
        ([b"a b"], False),
        ([b"a\r\nset-cookie: b"], False),
        ([b"\xff"], False),
        ([b"one", b"two"], False),
    ],
)
def test_request_id(given: list[bytes], kept: bool) -> None:
    inside = Inside()
    for path, headers in (("/v1/models", [HOST]), ("/v1/models", [(b"host", b"evil.example")])):
        got = run(Guard(inside, hub_of()), path, [*headers, *((b"x-request-id", value) for value in given)])
        told = got.headers["x-request-id"]
        assert (told == given[0].decode("latin-1")) if kept else told.startswith("req_")
    assert inside.scopes[0]["state"]["request_id"]


def test_every_answer_has_the_page_s_headers() -> None:
    for headers, status in (([HOST], 200), ([(b"host", b"evil.example")], 421)):
        got = run(Guard(Inside(), hub_of()), headers=headers)
        assert got.status == status
        assert "default-src 'self'" in got.headers["content-security-policy"]
        assert "unsafe" not in got.headers["content-security-policy"]
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "microphone=(self)" in got.headers["permissions-policy"]


LENGTH = [HOST, (b"transfer-encoding", b"chunked")]


def small(**fields: Any) -> Hub:
    return hub_of(limits=replace(Limits(), **fields))


@pytest.mark.parametrize(
    ("headers", "pieces", "reached"),
    [
        ([HOST, (b"content-length", b"10")], [b"0123456789"], 10),
        (LENGTH, [b"01234", b"56789"], 10),
        (LENGTH, [b"01234", b"567890"], None),
        (LENGTH, [b"x" * 11], None),
        ([HOST, (b"content-length", b"5")], [b"x" * 11], None),
        ([HOST, (b"content-length", b"11")], [b"x" * 11], None),
        ([HOST, (b"content-length", b"9" * 40)], [b"x"], None),
        ([HOST, (b"content-length", b"9" * 5000)], [b"x"], None),
        ([HOST, (b"content-length", b"0" * 40)], [b"x" * 11], None),
        ([HOST, (b"content-length", b"-1")], [b"x" * 11], None),
    ],
)
def test_body_is_counted_while_it_is_read(headers: Headers, pieces: list[bytes], reached: int | None) -> None:
    inside = Inside()
    got = run(Guard(inside, small(body_bytes=10)), headers=headers, body=pieces)
    if reached is None:
        assert (got.status, got.error["code"], inside.bodies) == (413, "request_too_large", [])
    else:
        assert (got.status, len(inside.bodies[0])) == (200, reached)


def test_slow_body() -> None:
    async def ask_slowly() -> tuple[Answer, int]:
        hub = small(slow_seconds=0.02)
        messages: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x", "more_body": True}  # 100 bytes a second, for ever

        async def send(message: Message) -> None:
            messages.append(message)

        scope: Scope = {"type": "http", "method": "POST", "path": "/v1/models", "headers": list(LENGTH), "scheme": "http"}
        await asyncio.wait_for(Guard(Inside(), hub)(scope, receive, send), 5)
        return Answer(messages), hub.counts.requests

    got, running = asyncio.run(ask_slowly())
    assert (got.status, got.error["code"], running) == (408, "request_timeout", 0)
    assert got.headers["connection"] == "close"


def test_body_that_is_quick_enough_may_take_long() -> None:
    async def ask_steadily() -> int:
        messages: list[Message] = []
        left = 8

        async def receive() -> Message:
            nonlocal left
            left -= 1
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x" * 1024, "more_body": left > 0}  # 100 KiB a second

        async def send(message: Message) -> None:
            messages.append(message)

        scope: Scope = {"type": "http", "method": "POST", "path": "/v1/models", "headers": list(LENGTH), "scheme": "http"}
        await Guard(Inside(), small(slow_seconds=0.03))(scope, receive, send)
        return Answer(messages).status

    assert asyncio.run(ask_steadily()) == 200


def test_requests_at_once() -> None:
    async def fill() -> list[int]:
        inside, hub = Inside(wait=asyncio.Event()), small(requests=2)
        guard = Guard(inside, hub, {"/health"})
        running = [asyncio.create_task(ask(guard)) for _ in range(2)]
        while len(inside.scopes) < 2:
            await asyncio.sleep(0)
        refused = await ask(guard)
        assert (refused.error["code"], refused.headers["retry-after"]) == ("overloaded", "1")
        assert inside.wait
        inside.wait.set()
        health = await ask(guard, "/health")
        first = [(await task).status for task in running]
        assert hub.counts.requests == 0
        return [refused.status, health.status, *first, (await ask(guard)).status]

    assert asyncio.run(fill()) == [503, 200, 200, 200, 200]


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        ({"sessions": 2, "sessions_per_key": 9}, 503, "overloaded"),
        ({"sessions": 9, "sessions_per_key": 2}, 429, "rate_limit_exceeded"),
    ],
)
def test_sessions_at_once(limits: dict[str, int], status: int, code: str) -> None:
    async def fill() -> None:
        inside = Inside(wait=asyncio.Event())
        hub = hub_of(keys=(KEY, "other-key"), limits=replace(Limits(), **limits))
        guard = Guard(inside, hub)
        own = {"path": "/v1/realtime", "headers": [HOST, BEARER], "socket": True}
        running = [asyncio.create_task(ask(guard, **own)) for _ in range(2)]  # type: ignore[arg-type]  # options spread
        while len(inside.scopes) < 2:
            await asyncio.sleep(0)
        refused = await ask(guard, **own)  # type: ignore[arg-type]  # options spread
        assert (refused.status, refused.error["code"]) == (status, code)
        value = hub.secrets.mint(Secret(inside.scopes[0]["state"]["key"], {}, int(time.time()) + 60))
        by_secret = await ask(guard, "/v1/realtime", [HOST, (b"authorization", b"Bearer " + value.encode())], socket=True)
        assert by_secret.status == status  # a client secret counts for the key that made it
        assert hub.counts.sessions.total() == 2
        assert inside.wait
        inside.wait.set()
        other = await ask(guard, "/v1/realtime", [HOST, (b"authorization", b"Bearer other-key")], socket=True)
        assert other.status == (101 if status == 429 else status)
        await asyncio.gather(*running)
        assert not hub.counts.sessions
        assert (await ask(guard, **own)).status == 101  # type: ignore[arg-type]  # options spread

    asyncio.run(fill())


def test_nothing_begins_while_the_server_ends() -> None:
    hub = hub_of()
    hub.draining = True
    guard = Guard(Inside(), hub, {"/health"})
    assert [run(guard).status, run(guard, socket=True).status, run(guard, "/health").status] == [503, 503, 200]


class Broken(Inside):
    begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.begun:
            kind = "websocket.accept" if scope["type"] == "websocket" else "http.response.start"
            await send({"type": kind, "status": 200, "headers": []})
        raise RuntimeError("at 0x7f00 in /home/me")


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_what_nobody_foresaw(socket: bool, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    app, hub = Broken(), hub_of(keys=(KEY,))
    app.begun = begun
    with caplog.at_level(logging.ERROR):
        got = run(Guard(app, hub), "/v1/realtime", [HOST, BEARER], socket=socket)
    assert "0x7f00" in caplog.text
    assert KEY not in caplog.text
    assert "0x7f00" not in repr(got.messages)
    assert (hub.counts.requests, hub.counts.sessions.total()) == (0, 0)
    if not begun:
        assert (got.status, got.error["type"]) == (500, "server_error")
    elif socket:
        assert got.messages[-1]["code"] == 1011
    else:
        assert len(got.messages) == 1  # no last piece of body: the server cuts the connection


def test_it_costs_little() -> None:
    """Below a millisecond, at the median; a request to the model takes a hundred."""

    async def measure() -> float:
        guard, spent = Guard(Inside(), hub_of(keys=(KEY,))), []
        for _ in range(300):
            began = time.perf_counter()
            await ask(guard, headers=[HOST, BEARER])
            spent.append(time.perf_counter() - began)
        return statistics.median(spent)

    assert asyncio.run(measure()) < 1e-3
