"""The one model that a server has, as OpenAI lists models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from pydantic import BaseModel

from omni.streaming.endpoints.http import Route
from omni.streaming.problems import Problem

if TYPE_CHECKING:
    from omni.streaming.server.hub import Hub

router = APIRouter(route_class=Route)


class Model(BaseModel):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "omni"


class Models(BaseModel):
    object: str = "list"
    data: list[Model]


def check_model(hub: Hub, name: str) -> None:
    """Problem where a request names another model."""
    if name != hub.name:
        raise Problem(
            f"there is no model {name[:100]!r} here; this server has {hub.name!r}",
            404,
            param="model",
            code="model_not_found",
        )


@router.get("/v1/models")
async def list_models(request: Request) -> Models:
    """The models of this server."""
    return Models(data=[_model(request.app.state.hub)])


@router.get("/v1/models/{model:path}")
async def get_model(model: str, request: Request) -> Model:
    """One of them; 404 where there is none of this name."""
    check_model(request.app.state.hub, model)
    return _model(request.app.state.hub)


def _model(hub: Hub) -> Model:
    return Model(id=hub.name, created=hub.created)
