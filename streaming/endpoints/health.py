"""GET /health."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from omni.streaming.server.hub import Hub

router = APIRouter()


class Health(BaseModel):
    status: Literal["ok", "stuck", "ending"]
    model: str
    num_requests_running: int
    num_requests_waiting: int
    num_sessions: int


@router.get("/health", responses={503: {"model": Health}})
async def health(request: Request, response: Response) -> Health:
    """200 where the engine takes what it is told; 503 where it does not, or the server is about to end."""
    hub: Hub = request.app.state.hub
    beats = await hub.pulse.beats()
    if not beats or hub.draining:
        response.status_code = 503
    response.headers["cache-control"] = "no-store"
    return Health(
        status="stuck" if not beats else "ending" if hub.draining else "ok",
        model=hub.name,
        num_requests_running=hub.metrics.num_running,
        num_requests_waiting=hub.metrics.num_waiting,
        num_sessions=hub.counts.sessions.total(),
    )
