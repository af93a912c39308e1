"""Client secrets: made with a key, told once, good for a socket, for a while."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.realtime import ClientSecretCreateResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MODEL, hub_of
from tests.streaming.running import Place, Still, running

KEY = "a-key-of-the-server-0123456789"
OWN = {"authorization": f"Bearer {KEY}"}
PATH = "/v1/realtime/client_secrets"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with running(hub_of(Still(), Settings(keys=(KEY,), limits=Limits(tools_bytes=1000)))) as place:
        yield place


def mint(place: Place, **fields: Any) -> dict[str, Any]:
    answer = place.post(PATH, json=fields, headers=OWN)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    ClientSecretCreateResponse.model_validate(body)
    return body


def session_with(place: Place, value: str, query: str = f"model={MODEL}") -> dict[str, Any]:
    """The session that a browser with this secret gets."""
    protocols = ["realtime", f"openai-insecure-api-key.{value}"]
    with connect(f"{place.ws}/v1/realtime?{query}", subprotocols=protocols, proxy=None) as socket:  # type: ignore[arg-type]  # websockets has a type of its own for names
        assert socket.subprotocol == "realtime"
        assert value not in str(socket.response)
        event = json.loads(socket.recv(5))
        assert event["type"] == "session.created"
        session: dict[str, Any] = event["session"]
        return session


def test_a_browser_s_way_in(place: Place) -> None:
    made = mint(place)
    assert re.fullmatch(r"ek_[A-Za-z0-9_-]{32,}", made["value"])  # all of it may stand in a subprotocol
    assert made["session"]["type"] == "realtime"
    assert session_with(place, made["value"])["type"] == "realtime"
    assert session_with(place, made["value"])["type"] == "realtime"  # as often as it likes, until it expires


@pytest.mark.parametrize(
    "session",
    [
        {"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"voice": "Ethan"}}},
        {"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 7},
        {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}},
        {"type": "transcription", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
    ],
)
def test_it_is_bound_to_its_session(place: Place, session: dict[str, Any]) -> None:
    made = mint(place, session=session)
    for got in (made["session"], session_with(place, made["value"])):
        assert flat(session).items() <= flat(got).items()


def flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return out


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"expires_after": {"anchor": "created_at", "seconds": 9}}, 400, "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 7201}}, 400, "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": "60"}}, 400, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 60}}, 400, "expires_after.anchor"),
        ({"session": {"type": "conversation"}}, 400, "session.type"),
        ({"session": {"type": ["realtime"]}}, 400, "session.type"),
        ({"session": {"type": "realtime", "audio": {"output": {"voice": "nobody"}}}}, 400, "session.audio.output.voice"),
        ({"session": {"type": "realtime", "audio": 5}}, 400, None),
        ([], 400, None),
        ("hello", 400, None),
        ({"session": []}, 400, "session"),
        ({"session": {"type": "realtime", "model": "other"}}, 400, "session.model"),
        ({"session": {"instructions": "x" * 3000}}, 413, "session"),
    ],
)
def test_requests_that_cannot_be(place: Place, fields: object, status: int, param: str | None) -> None:
    answer = place.post(PATH, json=fields, headers=OWN)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
    assert error["param"] == param or param is None


def test_a_body_may_be_left_out(place: Place) -> None:
    assert place.post(PATH, headers=OWN).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/metrics"), ("POST", PATH), ("POST", "/v1/chat/completions"), ("GET", "/openapi.json")],
)
def test_it_opens_no_other_endpoint(place: Place, method: str, path: str) -> None:
    value = mint(place)["value"]
    assert place.ask(method, path, headers={"authorization": f"Bearer {value}"}).status_code == 401


@pytest.mark.parametrize("value", ["ek_", "ek_" + "A" * 43, "ek_" + KEY])
def test_secrets_that_are_none(place: Place, value: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        session_with(place, value)
    assert refused.value.response.status_code == 401


def test_it_needs_a_key(place: Place) -> None:
    assert place.post(PATH, json={}).status_code == 401


def test_without_keys_a_secret_still_has_to_be_one() -> None:
    with running(hub_of(Still(), Settings())) as place:
        made = place.post(PATH, json={"session": {"type": "realtime", "instructions": "Be brief."}}).json()
        assert session_with(place, made["value"])["instructions"] == "Be brief."
        with pytest.raises(InvalidStatus):
            session_with(place, "ek_other")


def test_numbers_that_no_client_could_be_told() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"maximum": 2**70}}
    with running(hub_of(Still())) as place:
        answer = place.post("/v1/realtime/client_secrets", json={"session": {"type": "realtime", "tools": [tool]}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
