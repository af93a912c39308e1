"""GET /v1/audio/voices."""

from __future__ import annotations

import httpx

from tests.streaming.doubles import Scripted, hub_of, serving


def listed(omni: Scripted) -> object:
    with serving(hub_of(omni)) as address:
        return httpx.get(f"{address}/v1/audio/voices", trust_env=False).json()


def test_voices() -> None:
    told = listed(Scripted())
    assert isinstance(told, dict) and told.pop("aliases")["onyx"] == "Ethan"
    names = [{"id": "Chelsie", "name": "Chelsie"}, {"id": "Ethan", "name": "Ethan"}]
    assert told == {"voices": names, "default": "Chelsie"}


def test_a_model_without_a_voice() -> None:
    omni = Scripted()
    omni.voices = {}
    assert listed(omni) == {"voices": [], "default": None, "aliases": {}}
