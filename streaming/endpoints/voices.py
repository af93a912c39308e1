"""GET /v1/audio/voices, and how a request names a voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator

from omni.streaming.endpoints.http import Route
from omni.streaming.fields import LACKING, Fields
from omni.streaming.problems import Problem, refused
from omni.streaming.voices import aliases, voice_of

if TYPE_CHECKING:
    from omni import Omni


router = APIRouter(route_class=Route)


class VoiceID(Fields):
    id: str


def _name(voice: object) -> object:
    return voice["id"] if isinstance(voice, dict) and "id" in voice else voice


VoiceName: TypeAlias = Annotated[str, BeforeValidator(_name, json_schema_input_type=str | VoiceID)]
"""A voice's name, or OpenAI's object with the name as its id."""


def voice_for(omni: Omni, name: str | None, param: str) -> str:
    """Whom a request names, the usual voice where it names nobody; Problem where the model has no such voice."""
    if not omni.capabilities.speaks:
        raise Problem("this server's model does not speak; ask for text alone", param=param, code=LACKING)
    found = voice_of(name or "", list(omni.voices), omni.default_voice)
    if found is None:
        known = ", ".join(omni.voices)
        raise refused(param, f"there is no voice {str(name)[:100]!r} here; known: {known}", "unknown_voice")
    return found


class Named(BaseModel):
    id: str
    name: str


class Voices(BaseModel):
    """Attributes:
    default: who speaks where nobody is named.
    aliases: other names, and whom they stand for.
    """

    voices: list[Named]
    default: str | None
    aliases: dict[str, str]


@router.get("/v1/audio/voices")
async def list_voices(request: Request) -> Voices:
    """Whom one can listen to."""
    omni = request.app.state.hub.omni
    if not omni.capabilities.speaks:
        return Voices(voices=[], default=None, aliases={})
    voices, default = list(omni.voices), omni.default_voice
    return Voices(
        voices=[Named(id=voice, name=voice) for voice in voices], default=default, aliases=aliases(voices, default)
    )
