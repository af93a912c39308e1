"""POST /v1/realtime/client_secrets."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from omni.streaming.endpoints.http import Route
from omni.streaming.fields import Body, Fields
from omni.streaming.problems import Problem
from omni.streaming.realtime.session_config import Bounds, size_as_json
from omni.streaming.server.client_secrets import Secret
from omni.streaming.server.hub import Hub

router = APIRouter(route_class=Route)


class ExpiresAfter(Fields):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class SecretRequest(Body):
    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = Field(default_factory=dict)


class SecretResponse(BaseModel):
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
    if (size := size_as_json(asked, "session")) > most:
        raise Problem(
            f"the session has {size} bytes as JSON, and {most} are allowed", 413, param="session", code="too_large"
        )
    if asked.get("model") not in (None, *hub.names):
        raise Problem(f"this server has {hub.name!r} alone", param="session.model", code="invalid_value")
    bounds = Bounds.of(hub.omni, hub.settings.limits)
    first = bounds.first(kind)
    session = bounds.parse(first.merged(asked), "session")
    return session.told(f"sess_{secrets.token_hex(12)}", hub.name, expires_at)
