"""The application: every endpoint behind the guard, every fault as OpenAI's error object."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from omni.errors import OmniError
from omni.streaming.endpoints import chat, client_secrets, health, metrics, models, speech, transcriptions, voices
from omni.streaming.fields import problem_of_fields
from omni.streaming.notices import IGNORED, WARNINGS
from omni.streaming.problems import Problem, problem_of
from omni.streaming.realtime import connection as realtime
from omni.streaming.server.guard import Guard
from omni.streaming.server.hub import Hub

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
ENDPOINTS = (chat, speech, voices, transcriptions, models, client_secrets, health, metrics)
DRAIN_SECONDS = 10.0
"""How long answers that run may go on when the server is told to end."""
LOOK = 0.05


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """What every refusal says."""

    error: ErrorBody


def create_app(hub: Hub, page: Path = PAGE) -> FastAPI:
    """The application as ASGI.

    hub: what its endpoints share; the application closes it when it ends. page: the folder of files that are open to all.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await drain(hub)
            await asyncio.to_thread(hub.close)

    files = {f"/{path.relative_to(page).as_posix()}": path for path in sorted(page.rglob("*")) if path.is_file()}
    public = {"/", "/health", *files}
    app = FastAPI(
        title="omni",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would hold the name that the client gave us
        middleware=[*_cors(hub), Middleware(Guard, hub=hub, public=public)],
        exception_handlers={
            Problem: _on_problem,
            OmniError: _on_omni_error,
            RequestValidationError: _on_invalid,
            HTTPException: _on_http,
        },
    )
    app.state.hub = hub
    for endpoint in ENDPOINTS:
        app.include_router(endpoint.router)
    app.add_api_websocket_route("/v1/realtime", realtime.realtime)
    static = StaticFiles(directory=page, check_dir=False)

    async def serve_file(request: Request) -> Response:
        name = request.scope["path"].lstrip("/") or "index.html"
        answer = await static.get_response(name, request.scope)
        answer.headers["cache-control"] = "no-cache"
        return answer

    for path in public & {"/", *files}:
        app.add_route(path, serve_file, ["GET", "HEAD"], include_in_schema=False)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # as FastAPI has it done
    return app


def _cors(hub: Hub) -> list[Middleware]:
    """For pages of allowed origins, which then may read answers; it stands outside the guard, so refusals too."""
    if not hub.settings.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=hub.settings.origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # clients have headers of their own, such as x-stainless-lang
            allow_private_network=True,
            expose_headers=["x-request-id", IGNORED, WARNINGS],
        )
    ]


async def drain(hub: Hub, seconds: float = DRAIN_SECONDS) -> None:
    """Let what runs end, for so many seconds; nothing new begins from now on."""
    hub.draining = True
    end = time.monotonic() + seconds
    while (hub.counts.requests or hub.metrics.num_running or hub.metrics.num_waiting) and time.monotonic() < end:
        await asyncio.sleep(LOOK)


def _told(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    request.app.state.hub.metrics.refusals.labels(problem.code or "other").inc()
    return JSONResponse(problem.body, problem.status, headers)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if request.scope["type"] == "websocket":
        raise error  # before it is accepted, the guard can refuse it
    return _told(request, error)


async def _on_omni_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OmniError)
    problem = problem_of(error)
    if problem.status == 500:
        log.error("an answer broke", exc_info=error)
    return _told(request, problem)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(request, problem_of_fields(error.errors()))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # FastAPI wraps whatever ends the reading of a body
        return _told(request, error.__cause__)
    match error.status_code:
        case 404:
            problem = Problem("there is nothing at this path", 404, code="not_found")
        case 405:
            problem = Problem("this path does not take that method", 405, code="method_not_allowed")
        case 400:
            problem = Problem("the body cannot be read; check its form", code="invalid_body")
        case status:
            problem = Problem(HTTPStatus(status).phrase, status, code=HTTPStatus(status).name.lower())
    return _told(request, problem, dict(error.headers or {}))


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of all HTTP endpoints: FastAPI's own, with the errors as they are sent and the key that opens them."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = schema.setdefault("components", {})
        parts["schemas"] = {k: v for k, v in parts.get("schemas", {}).items() if "ValidationError" not in k}
        about = Error.model_json_schema(ref_template="#/components/schemas/{model}")
        parts["schemas"] |= {**about.pop("$defs"), "Error": about}
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        told = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                for status, description in (("4XX", "The request is at fault."), ("5XX", "The server is.")):
                    operation["responses"].setdefault(status, {"description": description, "content": told})
                if path != "/health" and app.state.hub.settings.keys:
                    operation["security"] = [{"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema
