"""Who may come in: the gate that stands before every endpoint, for HTTP and sockets alike.

It decides on `scope["path"]`, which is what the router decides on, and before a body is read or a socket accepted. In this
order: the Host header, the Origin header, the key, how much runs already. What is refused gets OpenAI's error object.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni.streaming.problems import Problem, server_fault
from omni.streaming.server.body import Body
from omni.streaming.server.client_secrets import PREFIX, Secret
from omni.streaming.server.hub import NOBODY, Hub

log = logging.getLogger(__name__)

SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
SOCKETS = frozenset({"/v1/realtime"})
"""Paths that a client secret opens, and only as sockets."""
PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(self), display-capture=(self)"),
    (
        b"content-security-policy",
        b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:; "
        b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Attributes:
        name: of the key that was shown, which tells nothing of it; NOBODY without one.
        secret: the client secret, where one was shown.
    """

    name: str
    secret: Secret | None = None


class Guard:
    """The gate as ASGI middleware.

    public: paths that are open without a key; nothing else is, where keys are set.
    """

    def __init__(self, app: ASGIApp, hub: Hub, public: Iterable[str] = ("/health",)) -> None:
        self.app, self.hub, self.public = app, hub, frozenset(public)
        settings = hub.settings
        self._keys = {_digest(key): f"key-{_digest(key).hex()[:8]}" for key in settings.keys}
        self._hosts = {name.lower() for name in (*LOOPBACK, settings.host, *settings.hosts)}
        self._origins = {origin.encode() for origin in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        if is_head := scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        talk = _Talk(scope, receive, send, request_id, self.hub, is_head=is_head)
        try:
            self._check_host(scope)
            self._check_origin(scope)
            visitor = self._visitor(scope)
            await self._let_in(scope, visitor, talk)
        except Problem as problem:
            await talk.refuse(problem)
        except ClientDisconnect:
            log.warning("the client of request %s left before it had sent all of it", request_id)
        except Exception:  # a fault of ours: logged, and told without what is inside
            log.exception("request %s failed", request_id)
            await talk.refuse(server_fault())

    def _check_host(self, scope: Scope) -> None:
        """Refuse names that are not ours: a page may have had its own name resolve to this machine (DNS rebinding)."""
        hosts = _all(scope["headers"], b"host")
        found = HOST.fullmatch(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        name = found[1].strip("[]") if found else ""
        # an address in the header was typed as one: no look-up came before it that could have been bent
        if name not in self._hosts and not _is_address(name):
            told = f"does not go by the name {name}; start it with `--allow-host {name}`" if name else "was asked by no name"
            self._refuse("host", f"this server {told}, or use its address", 421)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse pages of other origins; programs send no Origin, and browsers always send a page's true one."""
        origins = _all(scope["headers"], b"origin")
        scheme = {"ws": b"http", "wss": b"https"}.get(scope["scheme"], scope["scheme"].encode())
        here = scheme + b"://" + _all(scope["headers"], b"host")[0].lower()
        if len(origins) > 1 or (origins and b"*" not in self._origins and origins[0] not in {here, *self._origins}):
            self._refuse(
                "origin",
                "pages of that origin may not use this server; start it with `--allow-origin ORIGIN` to let them",
                403,
            )

    def _visitor(self, scope: Scope) -> Visitor:
        """Who asks; takes what was shown out of the scope, so that nothing behind the gate can tell it on."""
        shown = self._shown(scope)
        if scope["path"] in self.public and scope["type"] == "http":
            return Visitor(NOBODY)
        if len(shown) > 1:
            self._refuse("key", "more than one key was sent; send one", 401)
        key = shown[0] if shown else None
        if key and key.startswith(PREFIX.encode()):
            secret = self.hub.secrets.find(key.decode("latin-1"))
            if secret and scope["type"] == "websocket" and scope["path"] in SOCKETS:
                return Visitor(secret.key, secret)
            self._refuse(
                "key", "this client secret is unknown, has expired, or opens only /v1/realtime; make a new one", 401
            )
        if not self._keys:
            return Visitor(NOBODY)
        if key is None:
            self._refuse("key", "send the server's key as `Authorization: Bearer KEY`", 401)
        digest, found = _digest(key), None
        for known, name in self._keys.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            self._refuse("key", "this is not a key of this server", 401)
        return Visitor(found)

    @staticmethod
    def _shown(scope: Scope) -> list[bytes]:
        """Every key that was shown, wherever one may be."""
        headers: Headers = scope["headers"]
        shown = []
        for value in _all(headers, b"authorization"):
            scheme, _, key = value.strip().partition(b" ")
            shown.append(key.strip() if scheme.lower() == b"bearer" else b"")
        kept = [(name, value) for name, value in headers if name != b"authorization"]
        if scope["type"] == "websocket":
            offered: list[str] = scope.get("subprotocols", [])
            shown += [
                name[len(KEY_SUBPROTOCOL) :].encode(errors="surrogateescape")
                for name in offered
                if name.startswith(KEY_SUBPROTOCOL)
            ]
            scope["subprotocols"] = [name for name in offered if not name.startswith(KEY_SUBPROTOCOL)]
            kept = [(name, value) for name, value in kept if name != b"sec-websocket-protocol"]
        scope["headers"] = kept
        return shown

    async def _let_in(self, scope: Scope, visitor: Visitor, talk: _Talk) -> None:
        state = scope.setdefault("state", {})
        state["request_id"], state["key"], state["secret"] = talk.request_id, visitor.name, visitor.secret
        if scope["type"] == "websocket":
            await self._socket(scope, visitor, talk)
        elif scope["path"] in self.public:
            await self.app(scope, talk.body.receive, talk.send)
        else:
            await self._request(scope, talk)

    async def _request(self, scope: Scope, talk: _Talk) -> None:
        counts, limits = self.hub.counts, self.hub.settings.limits
        if self.hub.draining:
            self._refuse("draining", "the server is about to restart; try again soon", 503)
        if counts.requests >= limits.requests:
            self._refuse(
                "requests", f"{limits.requests} requests are being answered, which is the most; try again soon", 503
            )
        talk.body.open(scope)
        scope["state"]["is_let_in"] = True  # for the transport, which cuts others first
        counts.requests += 1
        try:
            await self.app(scope, talk.body.receive, talk.send)
        finally:
            counts.requests -= 1

    async def _socket(self, scope: Scope, visitor: Visitor, talk: _Talk) -> None:
        counts, limits, metrics = self.hub.counts, self.hub.settings.limits, self.hub.metrics
        if self.hub.draining:
            self._refuse("draining", "the server is about to restart; try again soon", 503)
        if counts.sessions.total() >= limits.sessions:
            self._refuse("sessions", f"{limits.sessions} sessions are open, which is the most; try again later", 503)
        if visitor.name != NOBODY and counts.sessions[visitor.name] >= limits.sessions_per_key:
            self._refuse(
                "sessions_per_key", f"{limits.sessions_per_key} sessions of this key are open, which is the most", 429
            )
        counts.sessions[visitor.name] += 1
        metrics.sessions.inc()
        try:
            await self.app(scope, talk.body.receive, talk.send)
        finally:
            metrics.sessions.dec()
            counts.sessions[visitor.name] -= 1
            if not counts.sessions[visitor.name]:
                del counts.sessions[visitor.name]

    def _refuse(self, reason: str, sentence: str, status: int) -> NoReturn:
        self.hub.metrics.refusals.labels(reason).inc()
        kind = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error"}.get(
            status, "invalid_request_error"
        )
        raise Problem(sentence, status, kind, code=CODES.get(status, "invalid_request"))


CODES = {
    401: "invalid_api_key",
    403: "forbidden_origin",
    421: "unknown_host",
    429: "rate_limit_exceeded",
    503: "overloaded",
}


class _Talk:
    """One request's or socket's messages: every answer gets the headers it needs, and is heard by who still sends."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, hub: Hub, *, is_head: bool = False
    ) -> None:
        self._scope, self._send, self._is_head = scope, send, is_head
        self.request_id = request_id
        self.body = Body(scope, receive, hub)
        self._state: Literal["new", "begun", "ended"] = "new"

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self._state = "begun"
                own: Headers = [*HEADERS, (b"x-request-id", self.request_id.encode())]
                if not self.body.whole:  # what comes of it is read, but not waited for
                    own.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            case "http.response.body":
                if self._is_head:
                    message = {**message, "body": b""}
                if not self.body.whole and not message.get("more_body", False):
                    await self._send({**message, "more_body": True})
                    await self.body.hear_out()
                    message = {"type": "http.response.body", "body": b""}
            case "websocket.accept":
                self._state = "begun"
                own = [(b"x-request-id", self.request_id.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            case "websocket.close" if self._state == "new":  # the router found no endpoint
                await self.refuse(Problem("there is no socket at this path", 404, code="not_found"))
                return
            case "websocket.close":
                self._state = "ended"
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Tell the client what is wrong, as far as it still can be told."""
        if self._scope["type"] == "websocket":
            if self._state == "begun":
                await self.send({"type": "websocket.close", "code": 1011, "reason": "the server failed"})
            elif self._state == "new":
                self._state = "ended"
                await self._respond("websocket.http.response", problem)
        elif self._state == "new":
            await self._respond("http.response", problem)
        # else the status is sent: returning now makes the server cut the connection, which is how a client sees it

    async def _respond(self, kind: str, problem: Problem) -> None:
        body = orjson.dumps(problem.body)
        headers: Headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if problem.status in (429, 503):
            headers.append((b"retry-after", b"1"))
        if problem.status == 415:
            headers.append((b"accept-encoding", b"gzip, deflate"))
        send: Send = self.send
        if kind != "http.response":
            send = self._send
            headers += [*HEADERS, (b"x-request-id", self.request_id.encode())]
        await send({"type": f"{kind}.start", "status": problem.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": body})


def _all(headers: Any, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _digest(key: str | bytes) -> bytes:
    """Of one length for all keys, so that comparing takes the same time."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _request_id(headers: Any) -> str:
    """The client's own, where it is short and plain, else a new one."""
    given = _all(headers, b"x-request-id")
    if len(given) == 1 and PLAIN_ID.fullmatch(given[0]):
        return given[0].decode()
    return f"req_{secrets.token_hex(12)}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
