"""Connections that nobody can hold open for nothing: uvicorn's protocols with a clock on reading heads and on writing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import Any

import h11
import orjson
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidState

from omni.streaming.problems import Problem
from omni.streaming.settings import Limits

log = logging.getLogger(__name__)

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

    def shutdown(self) -> None:
        """As the server ends: whatever state the other side has left the connection in, its end is no fault."""
        try:
            super().shutdown()  # type: ignore[misc]  # of the class mixed in
        except (h11.LocalProtocolError, InvalidState):
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]  # of the class mixed in
        self._watch()

    def _watch(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.limits.slow_seconds, self._look)

    def _look(self) -> None:
        try:
            unsent = self.transport.get_write_buffer_size()
        except AttributeError:  # what was closed twice under TLS has let go of its buffer, and asyncio's clock ends it
            return
        if unsent >= self._unsent:
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
    """HTTP: the head of a request has to come within `slow_seconds`; where there are too many connections, idle ones go."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head: asyncio.TimerHandle | None = None
        self._refused = False
        self._since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's transport type is wider
        super().connection_made(transport)
        self._since = self.loop.time()
        self._await_head()
        if len(self.connections) > self.limits.requests + self.limits.sessions + SPARE:
            self._make_room()

    @property
    def _is_idle(self) -> bool:
        """Whether no answer to a request that the guard has let in is being made."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return not self.transport.is_closing() and (is_answered or not self.scope["state"].get("is_let_in"))

    def _make_room(self) -> None:
        """Cut the connection that has been idle for the longest, of the peer that has most of them.

        Those that are not idle are fewer than there may be, so whoever is new gets in, and can ask for health.
        """
        idle = [each for each in self.connections if isinstance(each, HttpProtocol) and each._is_idle]
        peers = Counter(each._peer for each in idle)
        if idle:
            max(idle, key=lambda each: (peers[each._peer], -each._since)).transport.abort()

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _await_head(self) -> None:
        self._head = self._head or self.loop.call_later(self.limits.slow_seconds, self.transport.abort)

    def _have_head(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        is_socket = self.transport.get_protocol() is not self
        if is_socket or (self.cycle and not self.cycle.response_complete):
            self._have_head()
        else:
            self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._have_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        told = [value for name, value in self.headers if name == b"connection" or name.startswith(b"sec-websocket-")]
        framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if event.method != b"GET" or framed or not all(value.isascii() for value in told):
            self.send_400_response("no handshake")
        else:
            self._unwatch()
            super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        log.warning("no HTTP request that can be read came from %s", self.client)
        body = orjson.dumps(Problem("this is no HTTP request that can be read", code="invalid_http").body)
        length = str(len(body)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
        try:
            for event in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is on its way already
            self.transport.abort()
            return
        self._refused = True  # what still comes is thrown away: closing before it has come would reset the connection
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._await_head()
        else:
            self.transport.close()


class SocketProtocol(_Patience, WebSocketsSansIOProtocol):  # type: ignore[misc]  # uvicorn's own classes differ so
    """WebSockets."""

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                text = b"".join(self.frames).decode()
            except UnicodeDecodeError as e:
                log.warning("a text message from %s is no UTF-8: %s", self.client, e)
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
            self.frames = []
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
            if not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()
            return
        super().send_receive_event_to_app()

    async def send(self, message: ASGISendEvent) -> None:
        if self.close_sent and message["type"] == "websocket.send":  # the client broke the protocol, and was told so
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body":  # refused: nothing is left to be shaken
            self.handshake_complete = True


def protocols(limits: Limits) -> tuple[type[HttpProtocol], type[SocketProtocol]]:
    """The two protocols under these limits, for uvicorn's settings `http` and `ws`."""
    return (
        type("HttpProtocol", (HttpProtocol,), {"limits": limits}),
        type("SocketProtocol", (SocketProtocol,), {"limits": limits}),
    )
