"""Connections that nobody can hold open for nothing: uvicorn's protocols with a clock on reading heads and on writing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
import orjson
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from omni.streaming.problems import Problem
from omni.streaming.settings import Limits

SEND_BYTES = 128 << 10
"""Of one connection that the kernel may hold: a megabyte a second to a client 100 ms away."""
SPARE = 256
"""Connections beyond those that may do something: pages, health, refusals."""


class _Patience:
    """What both protocols share: a client that leaves what was sent to it unread is cut off.

    Whoever writes waits until the kernel has taken all, and the kernel takes little: so unsent bytes are few, always under
    the clock, and fewer as soon as the client reads; and what is said is never far ahead of what is heard.
    """

    limits: Limits
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _stall: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of the class mixed in
        transport.set_write_buffer_limits(high=1)  # TLS takes 0 for "always full"
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]  # of the class mixed in
        self._watch()

    def _watch(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.limits.slow_seconds, self._look)

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]  # of the class mixed in
        self._unwatch()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[misc]  # of the class mixed in
        self._unwatch()

    def _unwatch(self) -> None:
        if self._stall:
            self._stall.cancel()
            self._stall = None


class HttpProtocol(_Patience, H11Protocol):
    """HTTP: the head of a request has to come within `slow_seconds`; connections are counted."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's transport type is wider
        super().connection_made(transport)
        if len(self.connections) > self.limits.requests + self.limits.sessions + SPARE:
            transport.abort()
        else:
            self._await_head()

    def _await_head(self) -> None:
        self._head = self._head or self.loop.call_later(self.limits.slow_seconds, self.transport.abort)

    def _have_head(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_socket = self.transport.get_protocol() is not self
        if is_socket or (self.cycle and not self.cycle.response_complete):
            self._have_head()
        else:
            self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._have_head()

    def send_400_response(self, msg: str) -> None:
        body = orjson.dumps(Problem("this is no HTTP request that can be read", code="invalid_http").body)
        length = str(len(body)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
        try:
            for event in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        except h11.LocalProtocolError:  # an answer is on its way already
            self.transport.abort()


class SocketProtocol(_Patience, WebSocketsSansIOProtocol):  # type: ignore[misc]  # uvicorn's own classes differ so
    """WebSockets."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":  # refused: nothing is left to be shaken
            self.handshake_complete = True


def protocols(limits: Limits) -> tuple[type[HttpProtocol], type[SocketProtocol]]:
    """The two protocols under these limits, for uvicorn's settings `http` and `ws`."""
    return (
        type("HttpProtocol", (HttpProtocol,), {"limits": limits}),
        type("SocketProtocol", (SocketProtocol,), {"limits": limits}),
    )
