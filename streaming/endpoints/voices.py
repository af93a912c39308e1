"""How a request names a voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import BeforeValidator

from omni.streaming.endpoints.http import Strict
from omni.streaming.problems import Problem

if TYPE_CHECKING:
    from omni import Omni


class VoiceID(Strict):
    id: str


def _name(voice: object) -> object:
    return voice["id"] if isinstance(voice, dict) and voice.keys() == {"id"} else voice


VoiceName: TypeAlias = Annotated[str, BeforeValidator(_name, json_schema_input_type=str | VoiceID)]
"""A voice's name, or OpenAI's object with the name as its id."""


def check_voice(omni: Omni, name: str, param: str) -> None:
    """Problem where the model has no voice of this name."""
    if not omni.voices:
        raise Problem("this server's model does not speak; ask for text alone", param=param, code="unsupported_parameter")
    if name not in omni.voices:
        known = ", ".join(omni.voices)
        raise Problem(f"{param}: there is no voice {name[:100]!r} here; known: {known}", param=param, code="unknown_voice")
