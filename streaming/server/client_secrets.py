"""Short-lived client secrets: how a browser talks to the server without its long-lived key."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from omni.streaming.problems import Problem

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
