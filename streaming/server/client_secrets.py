"""Short-lived client secrets: how a browser talks to the server without its long-lived key."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.requests import HTTPConnection

from omni.streaming.endpoints.http import Route, Strict
from omni.streaming.problems import Problem
from omni.streaming.realtime.session_config import Bounds

if TYPE_CHECKING:
    from omni.streaming.server.hub import Hub

router = APIRouter(route_class=Route)

PREFIX = "ek_"
MOST = 1024
"""Secrets that may be valid at once."""


@dataclass(frozen=True)
class Secret:
    """What one client secret allows.

    Attributes:
        key: who made it, as `guard` names keys: what is counted per key counts for its maker.
        session: the session object that it was made with, as it came; a socket that it opens starts from it.
        expires_at: seconds since 1970; sockets may be opened until then.
    """

    key: str
    session: dict[str, Any]
    expires_at: int


@dataclass
class Secrets:
    """All client secrets that are valid; they live in memory and end with the server."""

    clock: Callable[[], float] = time.time
    _known: dict[bytes, Secret] = field(default_factory=dict, repr=False)

    def mint(self, secret: Secret) -> str:
        """A new name for it, in characters that a WebSocket subprotocol may hold; Problem where too many are valid."""
        now = self.clock()
        self._known = {digest: secret for digest, secret in self._known.items() if secret.expires_at > now}
        if len(self._known) >= MOST:
            raise Problem(
                f"{MOST} client secrets are valid, which is the most; wait until some expire",
                429,
                "rate_limit_error",
                code="rate_limit_exceeded",
            )
        value = PREFIX + secrets.token_urlsafe(32)
        self._known[_digest(value)] = secret
        return value

    def find(self, value: str) -> Secret | None:
        """What this secret allows; None where it is unknown or has expired."""
        secret = self._known.get(_digest(value))
        return secret if secret and secret.expires_at > self.clock() else None


def _digest(value: str) -> bytes:
    """What a secret is kept as: the time of a look-up by it tells nothing of the secret."""
    return hashlib.sha256(value.encode()).digest()


def secret_of(connection: HTTPConnection) -> Secret | None:
    """The client secret that a socket was opened with; None where a key opened it, or nothing had to."""
    found: Secret | None = connection.scope.get("state", {}).get("secret")
    return found


class ExpiresAfter(Strict):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class SecretRequest(Strict):
    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = Field(default_factory=dict)


class SecretResponse(Strict):
    """session: as a socket that the secret opens will have it."""

    value: str
    expires_at: int
    session: dict[str, Any]


@router.post("/v1/realtime/client_secrets")
async def create_client_secret(request: Request, asked: SecretRequest | None = None) -> SecretResponse:
    """A short-lived secret with which a browser can open realtime sessions that are set up like this one."""
    hub: Hub = request.app.state.hub
    asked = asked or SecretRequest()
    expires_at = int(time.time()) + asked.expires_after.seconds
    session = _session(hub, asked.session, expires_at)
    value = hub.secrets.mint(Secret(request.scope["state"]["key"], asked.session, expires_at))
    return SecretResponse(value=value, expires_at=expires_at, session=session)


def _session(hub: Hub, asked: dict[str, Any], expires_at: int) -> dict[str, Any]:
    """The whole session object that comes of what was asked for; Problem for what cannot be here."""
    kind = asked.get("type", "realtime")
    if kind not in ("realtime", "transcription"):
        raise Problem('session.type is "realtime" or "transcription"', param="session.type", code="invalid_value")
    most = 2 * hub.settings.limits.tools_bytes
    if (size := len(orjson.dumps(asked))) > most:
        raise Problem(
            f"the session has {size} bytes as JSON, and {most} are allowed", 413, param="session", code="too_large"
        )
    if asked.get("model") not in (None, hub.name):
        raise Problem(f"this server has {hub.name!r} alone", param="session.model", code="invalid_value")
    bounds = Bounds(tuple(hub.omni.voices), hub.settings.limits)
    first = bounds.first(kind, hub.omni.default_voice if hub.omni.voices else None)
    session = bounds.read(first.merged(asked), "session")
    return session.told(f"sess_{secrets.token_hex(12)}", hub.name, expires_at)
