"""GET /v1/models: the one that a server has, by all its names."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from omni.events import Capabilities
from omni.streaming.endpoints.http import Route
from omni.streaming.server.hub import Hub

router = APIRouter(route_class=Route)


class Model(BaseModel):
    """Attributes:
    capabilities: whether it hears, sees and speaks; beside OpenAI's fields.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "omni"
    capabilities: Capabilities


class Models(BaseModel):
    object: str = "list"
    data: list[Model]


@router.get("/v1/models")
async def list_models(request: Request) -> Models:
    """The models of this server."""
    hub: Hub = request.app.state.hub
    return Models(data=[_model(hub, name) for name in hub.names])


@router.get("/v1/models/{model:path}")
async def get_model(model: str, request: Request) -> Model:
    """One of them; 404 where there is none of this name."""
    hub: Hub = request.app.state.hub
    hub.check_model(model)
    return _model(hub, model)


def _model(hub: Hub, name: str) -> Model:
    return Model(id=name, created=hub.created, capabilities=hub.omni.capabilities)
