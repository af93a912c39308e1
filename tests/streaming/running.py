"""The real server on this machine for a test, and raw connections to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from omni.streaming.serve import Server, Tls, bind, server_of
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Settings
from tests.streaming.doubles import Scripted


class Still(Scripted):
    """Stands in for `Omni`, and answers when it is asked for a sign of life."""

    alive = True

    def ping(self, timeout: float) -> bool:
        return self.alive


@dataclass(frozen=True)
class Place:
    """Where a server is that runs meanwhile."""

    server: Server
    port: int
    tls: bool

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.request(method, self.url + path, **more)

    def connect(self, **options: int) -> socket.socket:
        """A raw connection; options: of the socket, before it connects."""
        raw = socket.socket()
        for name, value in options.items():
            raw.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        raw.settimeout(20)
        try:
            raw.connect(("127.0.0.1", self.port))
        except OSError:
            raw.close()
            raise
        return raw

    def say(self, *pieces: bytes) -> bytes:
        """What the server answers to these bytes until it closes the connection, or has sent an answer's end."""
        with self.connect() as raw:
            for piece in pieces:
                raw.sendall(piece)
            return everything(raw)


def everything(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    out = b""
    try:
        while piece := raw.recv(1 << 16):
            out += piece
    except ConnectionResetError:
        pass
    return out


@contextmanager
def running(hub: Hub, tls: Tls | None = None, **config: Any) -> Iterator[Place]:
    """config: of uvicorn, where a test needs other times."""
    with bind(Settings(port=0)) as listener:
        server = server_of(hub, tls)
        for name, value in config.items():
            setattr(server.config, name, value)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Place(server, listener.getsockname()[1], tls is not None)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
