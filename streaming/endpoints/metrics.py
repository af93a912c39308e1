"""GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from omni.streaming.server.metrics import Metrics

router = APIRouter()


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """Figures of this server in the format of Prometheus."""
    hub_metrics: Metrics = request.app.state.hub.metrics
    return Response(generate_latest(hub_metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
