"""The body of a request as it comes: counted, under a clock, inflated, and heard out where the answer came first."""

from __future__ import annotations

import asyncio
import time
import zlib
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Scope

from omni.streaming.problems import Problem
from omni.streaming.server.hub import Hub

LEAST_RATE = 16 << 10
"""Bytes a second that a body has to come with, after the first `slow_seconds`."""
PIECE = 1 << 20
"""Bytes that are inflated at once, so that others have their turn in between."""
CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "identity": ""}
LEFT_BYTES, LEFT_FACTOR = 256 << 20, 3
"""How much of a body is heard out after its answer, and for how many `slow_seconds`."""


class Body:
    """One request's body, of which `limits.body_bytes` may come, and as many be inflated.

    A connection that is closed while something unread has come is reset, and the reset takes with it what was answered.
    So whoever answers before all has been read calls `hear_out` before it ends.

    Attributes:
        length: that the client announced, in bytes as sent; None where it did not.
        whole: nothing more of it is to come.
    """

    def __init__(self, scope: Scope, receive: Receive, hub: Hub) -> None:
        self._receive, self._limits, self._refusals = receive, hub.settings.limits, hub.metrics.refusals
        self._size, self._since = 0, 0.0
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        lengths = [value for name, value in headers if name == b"content-length"]
        self.length = int(lengths[0][:20]) if lengths and lengths[0].isdigit() else None
        # without one of these there is no body, and what comes next is the client's leaving, however late
        has_body = (lengths and lengths != [b"0"]) or any(name == b"transfer-encoding" for name, _ in headers)
        self.whole = scope["type"] == "websocket" or not has_body
        self._coding = b", ".join(value for name, value in headers if name == b"content-encoding").decode("latin-1")
        self._inflater: _Inflater | None = None

    def open(self, scope: Scope) -> None:
        """Take the coding out of the scope; Problem where it is none of ours, or too much is announced."""
        most = self._limits.body_bytes
        if self.length is not None and self.length > most:
            self._refusals.labels("body").inc()
            raise _too_large(f"the body has {self.length} bytes and {most} are allowed")
        name = self._coding.strip().lower()
        if (coding := CODINGS.get(name, "" if not name else None)) is None:
            self._refusals.labels("coding").inc()
            raise Problem(
                f"a body coded as {self._coding[:100]!r} is not read here; send it as it is, or as gzip or deflate",
                415,
                code="unsupported_encoding",
            )
        if coding and not self.whole:
            self._inflater = _Inflater(coding)
            scope["headers"] = [h for h in scope["headers"] if h[0] not in (b"content-encoding", b"content-length")]

    async def receive(self) -> Message:
        """The next message; Problem where a body is too large, comes too slowly, or is not what its coding says."""
        return await (self._inflated(self._inflater) if self._inflater else self._next())

    async def _next(self) -> Message:
        if self.whole:
            return await self._receive()
        now = time.monotonic()
        self._since = self._since or now
        try:
            left = self._since + self._limits.slow_seconds + self._size / LEAST_RATE - now
            async with asyncio.timeout(min(left, self._limits.slow_seconds)):  # nor may it stand still for longer
                message = await self._receive()
        except TimeoutError:
            self._refusals.labels("slow").inc()
            raise Problem("the body comes too slowly; send it again", 408, code="request_timeout") from None
        self._size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        self._check(self._size)
        return message

    async def _inflated(self, inflater: _Inflater) -> Message:
        while not (piece := inflater.take()):
            if self.whole:
                inflater.check_end()
                self._inflater = None
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._next()
            if message["type"] != "http.request":
                return message
            inflater.give(message.get("body", b""))
        self._check(inflater.size)
        await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": True}

    def _check(self, size: int) -> None:
        if size > self._limits.body_bytes:
            self._refusals.labels("body").inc()
            raise _too_large(f"the body has more than the {self._limits.body_bytes} bytes allowed")

    async def hear_out(self) -> None:
        """Read what is left and throw it away, as far as it comes soon and is not endless."""
        seconds, size = self._limits.slow_seconds, 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LEFT_FACTOR * seconds):
                while not self.whole and size < LEFT_BYTES:
                    async with asyncio.timeout(seconds / 2):
                        message = await self._receive()
                    size += len(message.get("body", b""))
                    self.whole = not message.get("more_body", False)


def _too_large(sentence: str) -> Problem:
    return Problem(sentence, 413, code="request_too_large")


class _Inflater:
    """gzip of any number of members, or deflate with or without zlib's head; never more than PIECE bytes at once."""

    def __init__(self, coding: str) -> None:
        self._gzip, self._left = coding == "gzip", b""
        self._flate: Any = None
        self.size = 0

    def give(self, data: bytes) -> None:
        self._left += data

    def take(self) -> bytes:
        """What can be inflated now; nothing where more has to be given first."""
        out = b""
        while not out and self._left and (self._flate is not None or self._begin()):
            try:
                out = self._flate.decompress(self._left, PIECE)
            except zlib.error:
                raise _unreadable() from None
            self._left = self._flate.unconsumed_tail or self._flate.unused_data
            if self._flate.eof:
                if not self._gzip and self._left:
                    raise _unreadable()
                self._flate = self._flate if not self._gzip else None
        self.size += len(out)
        return out

    def _begin(self) -> bool:
        if self._gzip:
            self._flate = zlib.decompressobj(31)
        elif len(self._left) > 1:  # many send deflate without the head that the standard wants around it
            has_head = self._left[0] & 15 == 8 and int.from_bytes(self._left[:2]) % 31 == 0
            self._flate = zlib.decompressobj(15 if has_head else -15)
        return self._flate is not None

    def check_end(self) -> None:
        if self._left or (self._flate is not None and not self._flate.eof) or not self.size:
            raise _unreadable()


def _unreadable() -> Problem:
    return Problem("the body is not what its content-encoding says; check how it is packed", code="invalid_body")
