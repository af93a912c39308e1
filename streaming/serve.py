"""The server as a process: what it binds, what it prints, and how it ends."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import uvicorn

from omni.errors import AddressError, OptionError
from omni.streaming.app import DRAIN_SECONDS, create_app, drain
from omni.streaming.server.client_secrets import PREFIX
from omni.streaming.server.hub import Hub
from omni.streaming.server.transport import protocols
from omni.streaming.settings import Settings

if TYPE_CHECKING:
    from omni import Omni


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the certificate with its chain, and its private key."""

    certfile: Path
    keyfile: Path


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets answers end, and then tells sockets that the server restarts (1012)."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A terminal that goes away ends the server as SIGTERM does."""
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:  # as nohup has it
                yield
                return
            signal.signal(signal.SIGHUP, lambda _, frame: self.handle_exit(signal.SIGTERM, frame))
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await drain(self._hub, DRAIN_SECONDS)
        await super().shutdown(sockets)


def serve(
    omni: Omni,
    name: str,
    settings: Settings | None = None,
    *,
    tls: Tls | None = None,
    out: TextIO | None = None,
) -> None:
    """Serve a model until a signal ends it.

    Args:
        name: of the model, as clients see it.
        settings: where and for whom; the defaults are for this machine only.
        tls: for https, without which browsers give microphones only to pages of this machine.
        out: where the address is printed; standard output when None.

    Raises:
        OptionError: the settings are not safe; it says what to do.
        AddressError: the address cannot be bound.
    """
    settings = settings or Settings()
    check_settings(settings)
    with bind(settings) as listener, suppress(KeyboardInterrupt):  # which uvicorn raises again once all has ended
        run(Hub(omni, name, settings), listener, tls, out)


def run(hub: Hub, listener: socket.socket, tls: Tls | None = None, out: TextIO | None = None) -> None:
    """Serve at a socket that listens already; KeyboardInterrupt once all has ended by one."""
    server = server_of(hub, tls)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through it again and again would hold everybody up
    print(greeting(hub, listener.getsockname()[1], tls), file=out or sys.stdout, flush=True)
    server.run(sockets=[listener])


def server_of(hub: Hub, tls: Tls | None = None) -> Server:
    """uvicorn under the hub's limits."""
    limits = hub.settings.limits
    http, ws = protocols(limits)
    config = uvicorn.Config(
        create_app(hub),
        loop="asyncio",
        http=http,
        ws=ws,
        ws_max_size=limits.socket_bytes,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        ws_per_message_deflate=False,  # it costs time, and lets small messages grow large
        lifespan="on",
        access_log=False,  # its lines hold query strings
        log_level="error",
        server_header=False,
        proxy_headers=False,  # nobody is trusted to say who asks
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
        ssl_certfile=tls.certfile if tls else None,
        ssl_keyfile=str(tls.keyfile) if tls else None,
    )
    try:
        config.load()
    except OSError as e:  # as are all faults of certificates
        raise OptionError(f"the certificate and its key cannot be used: {e.strerror or e}; give both, in PEM") from e
    return Server(config, hub)


def check_settings(settings: Settings) -> None:
    """OptionError where the settings would leave the server open, or could never match what they are compared with."""
    if not settings.keys and not is_loopback(settings.host):
        raise OptionError(
            f"{settings.host} can be reached from other machines, and no key is set: give one, or bind 127.0.0.1 and "
            "reach it through an ssh tunnel"
        )
    for key in settings.keys:
        if not re.fullmatch(r"[A-Za-z0-9._~-]{16,}", key) or key.startswith(PREFIX):
            raise OptionError(f"a key has 16 or more letters, digits, and . _ ~ -, and does not begin with {PREFIX}")
    if "*" in settings.origins and not settings.keys:
        raise OptionError("pages of every origin would be let in, and no key is set: give one, or name the origins")
    for origin in settings.origins:
        if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            raise OptionError(f"{origin!r} is no origin; write it as browsers do: https://name or http://name:port")
    for name in settings.aliases:
        if not re.fullmatch(r"[!-~]{1,200}", name):
            raise OptionError(f"{name!r} is no name for a model; give one without spaces")
    for name in (*settings.hosts, *settings.media_domains):
        if not re.fullmatch(r"[a-z0-9.\-]+", name):
            raise OptionError(f"{name!r} is no host's name; write it in small letters, without scheme, port and path")
    if settings.media_folder and not settings.media_folder.is_dir():
        raise OptionError(f"{settings.media_folder} is no folder; give one that is there")


def is_loopback(host: str) -> bool:
    """Whether a name stands for this machine alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        raise OptionError(f"{host!r} is no address of this machine: {e.strerror}; bind 127.0.0.1") from e
    return all(ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def bind(settings: Settings) -> socket.socket:
    """A listening socket; AddressError where the address is taken or is not this machine's."""
    if not 0 <= settings.port <= 65535:
        raise OptionError(f"{settings.port} is no port; give one from 1 to 65535, or 0 for any that is free")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as e:
        raise AddressError(
            f"{settings.host}, port {settings.port}, cannot be bound: {os.strerror(e.errno or 0)}; choose another with "
            "--port, or 0 for any"
        ) from e


def greeting(hub: Hub, port: int, tls: Tls | None) -> str:
    """Where the server is, and how to talk to it."""
    settings, s = hub.settings, "s" if tls else ""
    local = is_loopback(settings.host)
    host = settings.host if local else (settings.hosts or ("THIS_MACHINE",))[0]
    place = f"{f'[{host}]' if ':' in host else host}:{port}"
    lines = [
        f"omni serves {hub.name} at http{s}://{place}",
        "  talk to it   open that address in a browser",
        f"  OpenAI's API base URL http{s}://{place}/v1, {'with your key' if settings.keys else 'with any key'}",
        f"  realtime     ws{s}://{place}/v1/realtime?model={hub.name}",
    ]
    if lacks := hub.omni.capabilities.lacks:
        lines.append(f"  the model reads and writes; it does not {lacks}")
    if not local and not tls:
        lines += [
            "Browsers give a microphone only to https pages, and to pages of their own machine. Give a certificate and key,",
            f"or run `ssh -L {port}:127.0.0.1:{port} {host}` where the browser is, and open http://127.0.0.1:{port} there.",
        ]
    return "\n".join(lines)
