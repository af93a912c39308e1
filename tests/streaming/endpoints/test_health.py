"""GET /health."""

from __future__ import annotations

from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, hub_of
from tests.streaming.running import Still, running


def test_health() -> None:
    with running(hub_of(Still(), Settings(keys=("a-key-of-the-server-0123456789",)))) as place:
        answer = place.get("/health")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "status": "ok",
        "model": MODEL,
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "num_sessions": 0,
    }
