"""GET /v1/audio/voices, and how a request names a voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator

from omni.streaming.endpoints.http import Route
from omni.streaming.fields import LACKING, Strict
from omni.streaming.problems import Problem, refused

if TYPE_CHECKING:
    from omni import Omni


router = APIRouter(route_class=Route)


class VoiceID(Strict):
    id: str


def _name(voice: object) -> object:
    return voice["id"] if isinstance(voice, dict) and voice.keys() == {"id"} else voice


VoiceName: TypeAlias = Annotated[str, BeforeValidator(_name, json_schema_input_type=str | VoiceID)]
"""A voice's name, or OpenAI's object with the name as its id."""


def check_voice(omni: Omni, name: str, param: str) -> None:
    """Problem where the model has no voice of this name."""
    if not omni.capabilities.speaks:
        raise Problem("this server's model does not speak; ask for text alone", param=param, code=LACKING)
    if name not in omni.voices:
        known = ", ".join(omni.voices)
        raise refused(param, f"there is no voice {name[:100]!r} here; known: {known}", "unknown_voice")


class Voices(BaseModel):
    """Attributes:
    default: who speaks where nobody is named.
    """

    voices: list[str]
    default: str | None


@router.get("/v1/audio/voices")
async def list_voices(request: Request) -> Voices:
    """Whom one can listen to."""
    omni = request.app.state.hub.omni
    return Voices(voices=list(omni.voices), default=omni.default_voice if omni.capabilities.speaks else None)
