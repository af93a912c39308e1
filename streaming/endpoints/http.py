"""What the HTTP doors share: strict bodies, one shape of error, bodies sent as they are made, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import pydantic_core
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from omni.errors import OmniError
from omni.events import Event
from omni.streaming.problems import Problem, problem_of

if TYPE_CHECKING:
    from omni.streaming.server.hub import Hub

T = TypeVar("T")
log = logging.getLogger(__name__)

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of a body that is sent as it is made: no proxy may keep it or hold it back."""
TAGGED = ("messages", "content")
"""Lists of which an item's kind stands in pydantic's path behind its index, though it is no key of the request."""
UNSUPPORTED = ("extra_forbidden", "none_required")


class Strict(BaseModel):
    """A part of a request: no other fields, no values that must be guessed (`"5"` is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True)


def problem_of_fields(errors: Sequence[Any], *, tagged: bool = False) -> Problem:
    """What a client is told of the first of pydantic's errors; never the value, which may be large or private.

    tagged: what is read is one of several kinds, whose name comes first in pydantic's path.
    """
    error = errors[0]
    loc = [item for item in error["loc"] if item != "body"][tagged:]
    path, kind, about = "", error["type"], error.get("ctx", {})
    for i, item in enumerate(loc):
        if i >= 2 and isinstance(loc[i - 1], int) and loc[i - 2] in TAGGED:
            continue
        path += f"[{item}]" if isinstance(item, int) else f".{item}" if path else str(item)
    if kind == "json_invalid":
        return Problem(f"the body is not JSON: {about['error']}", code="invalid_json")
    if kind.startswith("union_tag_"):
        path = f"{path}.{about['discriminator']}".replace("'", "").removeprefix(".")
    if not path:
        return Problem("this is no JSON object; send one, over HTTP as application/json", code="invalid_json")
    param = path[:200]
    if kind in ("missing", "union_tag_not_found"):
        return Problem(f"{param} is missing", param=param, code="missing_required_parameter")
    if kind in UNSUPPORTED:
        return Problem(f"{param} is not known here; leave it out", param=param, code="unsupported_parameter")
    if kind == "union_tag_invalid":
        return Problem(f"{param} is unknown; known are {about['expected_tags']}", param=param, code="invalid_value")
    said = str(about["error"]) if kind == "value_error" else f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return Problem(f"{param}: {said}", param=param, code="invalid_type" if kind.endswith("_type") else "invalid_value")


class _StrictRequest(Request):
    async def json(self) -> Any:
        """As pydantic reads it: quick, and without NaN, lone surrogates or endless nesting."""
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError as e:
            raise json.JSONDecodeError(str(e), "", 0) from e


class Route(APIRoute):
    """A route whose body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is cancelled as soon as the client is gone."""
    doing, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Problem("the client closed the connection", 499, code="client_closed_request")
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def begun(request: Request, pieces: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same pieces, once the first is there: what goes wrong before it can still be told by a status."""

    async def first() -> T:
        return await anext(pieces)

    async def all_of(piece: T) -> AsyncGenerator[T]:
        async with aclosing(pieces):
            yield piece
            async for piece in pieces:
                yield piece

    return all_of(await while_there(request, first()))


class Made(StreamingResponse):
    """A body that is sent as it is made; what makes it is closed when the client goes."""

    def __init__(self, pieces: AsyncGenerator[bytes], media_type: str) -> None:
        super().__init__(pieces, media_type=media_type, headers=HEADERS)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


class Events(Made):
    """Server-sent events, one JSON object each; a fault on the way is told as OpenAI's error object, and ends them.

    last: what is sent after them.
    """

    def __init__(self, events: AsyncGenerator[Mapping[str, Any]], last: bytes = b"") -> None:
        super().__init__(_lines(events, last), "text/event-stream")


async def _lines(events: AsyncGenerator[Mapping[str, Any]], last: bytes) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(events):
            async for event in events:
                yield _line(event)
        if last:
            yield b"data: " + last + b"\n\n"
    except Exception as e:  # the status is out: whatever it is, it is told as the last line
        yield _line(told(e).body)


def _line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def told(error: Exception) -> Problem:
    """What a client is told of a fault once the status is sent; a fault of the server's own is logged too."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OmniError):
        return problem_of(error)
    log.error("an answer broke", exc_info=error)
    return Problem("the server failed; try again", 500, "server_error", code="server_error")


async def watched(hub: Hub, door: str, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The same events, counted by the server's metrics."""
    with hub.metrics.answer(door) as seen:
        async with aclosing(events):
            async for event in events:
                seen(event)
                yield event
