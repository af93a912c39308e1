"""Whether the server can answer, asked of the engine itself."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

if TYPE_CHECKING:
    from omni import Omni
    from omni.streaming.server.hub import Hub

router = APIRouter()

SECONDS = 5.0
"""In which the engine has to take a message; it does so between two steps."""


class Pulse:
    """Asks the engine for a sign of life, once for all who want to know at the same time.

    The thread is its own: threads that read media may all be busy without anything being wrong.
    """

    def __init__(self, omni: Omni, seconds: float = SECONDS) -> None:
        self._omni, self._seconds = omni, seconds
        self._thread = ThreadPoolExecutor(1, "pulse")
        self._asked: Future[bool] | None = None

    async def beats(self) -> bool:
        """Whether the engine answered in time."""
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(self._omni.ping, self._seconds)
        return await asyncio.shield(asyncio.wrap_future(self._asked))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


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
