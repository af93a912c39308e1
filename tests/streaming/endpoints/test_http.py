"""What the HTTP endpoints share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import Request

from omni.errors import CapacityError, EngineError
from omni.streaming.endpoints.http import Events, begun, while_there
from omni.streaming.problems import Problem, told


def request_of(*messages: str) -> Request:
    """A request whose client does these things and then nothing more."""
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        for kind in left:
            return {"type": kind}
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http", "headers": []}, receive)


def test_work_is_cancelled_when_the_client_is_gone() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    with pytest.raises(Problem) as caught:
        asyncio.run(while_there(request_of("http.request", "http.disconnect"), work()))
    assert caught.value.status == 499 and ended


def test_work_is_cancelled_with_the_request() -> None:
    async def cancel() -> bool:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with asyncio.timeout(0.05):
            await while_there(request_of(), work())
        return ended.is_set()

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())


def test_work_that_ends_is_not_disturbed() -> None:
    async def work(error: Exception | None) -> int:
        if error:
            raise error
        return 5

    assert asyncio.run(while_there(request_of(), work(None))) == 5
    with pytest.raises(CapacityError):
        asyncio.run(while_there(request_of(), work(CapacityError("full"))))


async def sent(events: AsyncGenerator[dict[str, Any]], request: Request | None = None) -> list[str]:
    """The lines of a stream of events."""
    pieces = await begun(request, events) if request else events
    body: list[bytes] = [piece async for piece in Events(pieces, last=b"[DONE]").body_iterator]  # type: ignore[misc]  # starlette types it as any iterable
    return b"".join(body).decode().split("\n\n")


@pytest.mark.parametrize(
    ("error", "says", "logged"),
    [
        (Problem("too much", 413, code="media_too_large"), "too much", False),
        (CapacityError("all full"), "all full", False),
        (EngineError("secret detail"), "could not finish", False),
        (KeyError("secret detail"), "the server failed", True),
    ],
)
def test_a_fault_on_the_way_is_the_last_event(
    error: Exception, says: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def events() -> AsyncGenerator[dict[str, Any]]:
        yield {"a": 1}
        raise error

    with caplog.at_level(logging.ERROR):
        first, last, end = asyncio.run(sent(events(), request_of()))
    assert first == 'data: {"a":1}' and says in last and '"error"' in last and end == ""
    assert "secret" not in last and bool(caplog.records) == logged
    assert told(error).message in last


def test_a_fault_before_the_first_event_is_raised() -> None:
    async def events() -> AsyncGenerator[dict[str, Any]]:
        if omni_is_full:
            raise CapacityError("all full")
        yield {}

    omni_is_full = True
    with pytest.raises(CapacityError):
        asyncio.run(sent(events(), request_of()))


def test_nothing_is_lost_by_waiting_for_the_first() -> None:
    async def events() -> AsyncGenerator[dict[str, Any]]:
        for i in range(3):
            yield {"i": i}

    assert asyncio.run(sent(events(), request_of())) == [*(f'data: {{"i":{i}}}' for i in range(3)), "data: [DONE]", ""]
