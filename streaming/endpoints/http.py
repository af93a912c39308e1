"""What the HTTP endpoints share: bodies read strictly, bodies sent as they are made, clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar, cast

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from omni.streaming import bounded_json
from omni.streaming.fields import problem_of_fields
from omni.streaming.notices import Notices, current
from omni.streaming.problems import Problem, told

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of a body that is sent as it is made: no proxy may keep it or hold it back."""


class _StrictRequest(Request):
    """model: of the body."""

    _body: bytes

    def __init__(self, scope: Scope, receive: Receive, model: TypeAdapter[Any]) -> None:
        super().__init__(scope, receive)
        self._model = model

    async def body(self) -> bytes:
        """All of it; never copied in one go, which would take long."""
        if not hasattr(self, "_body"):
            whole = bytearray()
            async for piece in self.stream():
                whole += piece
            self._body = cast(bytes, whole)
        return self._body

    async def json(self) -> Any:
        """The body as its model, which is more than FastAPI asks for; the bytes are let go of."""
        try:
            return await bounded_json.read(await self.body(), self._model.validate_python)
        except ValidationError as e:
            raise problem_of_fields(e.errors(include_url=False, include_input=False)) from None
        except ValueError as e:
            raise json.JSONDecodeError(str(e), "", 0) from e
        finally:
            self._body = b""


class Route(APIRoute):
    """A route whose body is read strictly, and whose answer's headers tell what there is to notice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        model = TypeAdapter[Any]((self.body_field and self.body_field.field_info.annotation) or Any)

        async def strictly(request: Request) -> Response:
            notices = Notices(strict=request.app.state.hub.settings.strict)
            current.set(notices)
            response = await handle(_StrictRequest(request.scope, request.receive, model))
            response.headers.update(notices.headers)
            return response

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
