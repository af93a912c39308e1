"""The application as a whole: what every endpoint has in common, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import Receive, Scope, Send

from omni.errors import CapacityError, ContextError, EngineError, MediaLimitError, OptionError
from omni.streaming.app import PAGE, create_app, drain
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL, hub_of
from tests.streaming.running import Place, Still, running

KEY = "a-key-of-the-server-0123456789"
OWN = {"authorization": f"Bearer {KEY}"}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with running(hub_of(Still(), Settings(keys=(KEY,), limits=Limits(body_bytes=100_000)))) as place:
        yield place


def error_of(answer: Any) -> dict[str, Any]:
    """OpenAI's error object, which every refusal has, whole."""
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["code"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v1/", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/V1/MODELS", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
        ("GET", "/page/index.html", 404, "not_found"),
        ("GET", "/app.py", 404, "not_found"),
        ("GET", "/v1/realtime", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("TRACE", "/health", 405, "method_not_allowed"),
        ("FOO", "/health", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_are_not_there(place: Place, method: str, path: str, status: int, code: str) -> None:
    answer = place.ask(method, path, headers=OWN)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "application/json", 400),
        (b"[" * 40_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"hello"', "application/json", 400),
        (b"NaN", "application/json", 400),
        (json.dumps(HELLO).encode(), "text/plain", 400),
        (json.dumps(HELLO).encode(), "", 400),
        (b"x" * 100_001, "application/json", 413),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/speech"])
def test_bodies_that_are_none(place: Place, path: str, body: bytes, kind: str, status: int) -> None:
    answer = place.post(path, content=body, headers={**OWN, "content-type": kind})
    assert answer.status_code == status, answer.text
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (OptionError("temperature is -1"), 400, "invalid_request_error"),
        (ContextError("too long"), 400, "invalid_request_error"),
        (MediaLimitError("too large"), 413, "invalid_request_error"),
        (CapacityError("no room"), 503, "server_error"),
        (EngineError("step 5 at 0x7f00 broke"), 500, "server_error"),
        (RuntimeError("at 0x7f00 in /home/me"), 500, "server_error"),
        (MemoryError("at 0x7f00"), 500, "server_error"),
        (RecursionError("maximum recursion depth exceeded"), 500, "server_error"),
    ],
)
def test_errors_of_the_runtime(error: Exception, status: int, kind: str) -> None:
    with running(hub_of(Still(error))) as place:
        answer = place.post("/v1/chat/completions", json=HELLO)
        assert (answer.status_code, error_of(answer)["type"]) == (status, kind)
        assert "0x7f00" not in answer.text
        assert (str(error) in answer.text) == (status != 500)
        assert place.get("/health").json()["num_requests_running"] == 0


def test_the_page_is_open_and_nothing_else(place: Place) -> None:
    for path in PAGE.rglob("*"):
        if path.is_file():
            answer = place.get("/" + path.relative_to(PAGE).as_posix())
            assert (answer.status_code, answer.content) == (200, path.read_bytes())
    index = place.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-cache"
    assert place.ask("HEAD", "/").headers["content-length"] == str(len(index.content))
    assert place.get("/", headers={"if-none-match": index.headers["etag"]}).status_code == 304
    for closed in ("/v1/models", "/metrics", "/openapi.json", "/nothing", "/guard.py", "//index.html"):
        assert place.get(closed).status_code == 401


def test_the_page_keeps_to_its_policy() -> None:
    """No script or style in its HTML, nothing from elsewhere: the policy would block them."""
    text = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []
    for path in PAGE.rglob("*.*"):
        if path.suffix in (".html", ".js", ".css"):
            assert re.findall(r"(?:src|href|from|import|url)\s*[=(]?\s*[\"'(](?:https?:)?//", path.read_text()) == [], path


def test_without_a_page(tmp_path: Path) -> None:
    app = create_app(hub_of(Still()), tmp_path)
    assert asyncio.run(status_of(app, "/")) == 404


async def status_of(app: FastAPI, path: str, headers: tuple[tuple[bytes, bytes], ...] = ((b"host", b"localhost"),)) -> int:
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers), "scheme": "http", "query_string": b""}
    await app(scope | {"root_path": "", "http_version": "1.1"}, receive, send)
    return found[0]


PAGE_ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with running(hub_of(Still(), Settings(keys=(KEY,), origins=(PAGE_ORIGIN,)))) as place:
        yield place


def test_pages_of_allowed_origins(shared: Place) -> None:
    asked = {
        "origin": PAGE_ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
        "access-control-request-private-network": "true",
    }
    before = shared.ask("OPTIONS", "/v1/chat/completions", headers=asked)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, PAGE_ORIGIN)
    assert before.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    assert before.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in before.headers
    answer = shared.get("/v1/models", headers={**OWN, "origin": PAGE_ORIGIN})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE_ORIGIN)
    assert answer.headers["access-control-expose-headers"] == "x-request-id, x-omni-ignored, x-omni-warnings"
    refused = shared.get("/v1/models", headers={"origin": PAGE_ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE_ORIGIN)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://page.example.evil.example"])
def test_pages_of_other_origins(shared: Place, place: Place, origin: str) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    for server in (shared, place):
        before = server.ask("OPTIONS", "/v1/chat/completions", headers=asked)
        assert (before.status_code >= 400, "access-control-allow-origin" in before.headers) == (True, False)
        answer = server.get("/v1/models", headers={**OWN, "origin": origin})
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)


def test_pages_of_any_origin_that_have_a_key() -> None:
    with running(hub_of(Still(), Settings(keys=(KEY,), origins=("*",)))) as place:
        for origin in ("https://page.example", "null", "http://localhost:3000"):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            assert place.ask("OPTIONS", "/v1/chat/completions", headers=asked).status_code == 200
            answer = place.get("/v1/models", headers={**OWN, "origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
            assert place.get("/v1/models", headers={"origin": origin}).status_code == 401


def test_draining_waits_for_what_runs() -> None:
    hub = hub_of(Still())

    async def run() -> tuple[float, float]:
        began = time.monotonic()
        await drain(hub, 5)
        idle = time.monotonic() - began
        with hub.metrics.answer("realtime"):
            waiting = asyncio.create_task(drain(hub, 5))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await waiting
        hub.counts.requests = 1
        began = time.monotonic()
        await drain(hub, 0.1)
        return idle, time.monotonic() - began

    idle, full = asyncio.run(run())
    assert (hub.draining, idle < 0.05, 0.1 <= full < 1) == (True, True, True)


PATHS = {
    "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/voices", "/v1/audio/transcriptions", "/v1/models",
    "/v1/models/{model}", "/v1/realtime/client_secrets", "/health", "/metrics",
}  # fmt: skip
APP = create_app(hub_of(Still(), Settings(hosts=("testserver",), keys=(KEY,))))


def test_description() -> None:
    schema = APP.openapi()
    assert PATHS <= set(schema["paths"])
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            assert operation["description"]
            assert {"4XX", "5XX"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
            assert ("security" in operation) == (path != "/health")
    assert "ValidationError" not in json.dumps(schema)
    open_to_all = create_app(hub_of(Still())).openapi()
    assert not any("security" in operation for methods in open_to_all["paths"].values() for operation in methods.values())


async def started(scope: Scope, receive: Receive, send: Send) -> None:
    """The application without its end: each case would be one."""
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) == "lifespan.startup":
            await send({"type": f"{kind}.complete"})
        await send({"type": f"{kind}.complete"})
    else:
        await APP(scope, receive, send)


described = schemathesis.openapi.from_dict(APP.openapi())
described.app = started


@described.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_description_is_true(case: schemathesis.Case[Any]) -> None:
    """Whatever it allows or forbids comes out as it says. What is well-formed may still be refused: no description can
    say which model is here, or that base64 holds a picture."""
    case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=[positive_data_acceptance])
