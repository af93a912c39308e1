"""What is on its way to a socket's client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import orjson

Json: TypeAlias = dict[str, Any]

MOST_RATE, BURST = 4 << 20, 48 << 20
"""Characters a second that one client is sent, beyond a first few: more than any answer has, and no more than one asks for
by mistake."""
LEAST_RATE = 16 << 10
"""Bytes a second that a client must read of a large event, after the first `slow_seconds`."""


class Outgoing:
    """Events in order, sent by one task: `run`.

    Args:
        send: one text frame, as far as the connection takes it. close: the connection, with a code and a reason.
        slow_seconds: how long a frame may wait for its reader.
    """

    def __init__(
        self, send: Callable[[str], Awaitable[None]], close: Callable[[int, str], Awaitable[None]], slow_seconds: float
    ) -> None:
        self._send, self._close, self._slow_seconds = send, close, slow_seconds
        self._frames: deque[str] = deque()
        self._ending: tuple[int, str] | None = None
        self._waiting = 0
        self._paid = 0.0
        self._more, self._fewer = asyncio.Event(), asyncio.Event()

    def put(self, event: Json) -> None:
        """After all that was put before; nothing after `end`."""
        if self._ending is None:
            self._frames.append(orjson.dumps(event).decode())
            self._waiting += len(self._frames[-1])
            self._more.set()

    def end(self, code: int, reason: str) -> None:
        """Close the connection, after all that was put before."""
        self._ending = self._ending or (code, reason)
        self._more.set()

    async def room(self, most: int = 0) -> None:
        """Wait until so many characters wait at most."""
        while self._waiting > most:
            self._fewer.clear()
            await self._fewer.wait()

    async def _pace(self, num_chars: int) -> None:
        now = asyncio.get_running_loop().time()
        self._paid = max(now, self._paid) + num_chars / MOST_RATE
        await asyncio.sleep(max(0.0, self._paid - now - BURST / MOST_RATE))

    async def run(self) -> None:
        """Send until the end, or until the client does not read any more, which ends the connection too."""
        while self._frames or self._ending is None:
            if not self._frames:
                self._more.clear()
                await self._more.wait()
                continue
            frame = self._frames[0]
            await self._pace(len(frame))
            try:
                async with asyncio.timeout(self._slow_seconds + len(frame) / LEAST_RATE):
                    await self._send(frame)
            except TimeoutError:
                self._ending = 1008, "slow_reader"
                break
            self._waiting -= len(self._frames.popleft())
            self._fewer.set()
        # RuntimeError: the client was the first to close; and the server cuts what cannot be closed in time
        with suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(self._slow_seconds):
                await self._close(*self._ending)
