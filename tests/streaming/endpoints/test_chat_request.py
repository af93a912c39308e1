"""What may be asked of POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omni.streaming.app import create_app
from omni.streaming.endpoints.chat_request import ChatRequest
from tests.streaming.doubles import MODEL, Scripted, hub_of

SUM = [{"role": "user", "content": "What is two plus three?"}]
ALOUD: dict[str, Any] = {"modalities": ["text", "audio"]}
NAMED = {"type": "function", "function": {"name": "time"}}
WEATHER = {"type": "function", "function": {"name": "weather"}}
APP = create_app(hub_of(Scripted()))


def post(body: str | bytes, kind: str = "application/json") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.post("/v1/chat/completions", content=body, headers={"content-type": kind})

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"messages": []}, "messages", "1 to"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "known are"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type", "'image_url'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "missing"),
        ({"modalities": ["audio"]}, "modalities", "text"),
        ({"modalities": ["text", "video"]}, "modalities[1]", "'audio'"),
        ({"modalities": ["text", "audio"]}, "audio", "missing"),
        ({"audio": {"voice": "Ethan", "format": "wav"}}, "audio", "modalities"),
        ({**ALOUD, "audio": {"voice": "Bob", "format": "wav"}}, "audio.voice", "known: Chelsie, Ethan"),
        ({**ALOUD, "audio": {"voice": "Ethan", "format": "ogg"}}, "audio.format", "'wav'"),
        ({"n": 9}, "n", "1 to 8"),
        ({"n": 0}, "n", "1 to 8"),
        ({"n": "2"}, "n", "integer"),
        ({"max_tokens": 32769}, "max_tokens", "32768"),
        ({"max_tokens": -1}, "max_tokens", "32768"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens", "32768"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "one of them"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": True}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"seed": -2}, "seed", "greater than or equal to -1"),
        ({"seed": 2**62}, "seed", "less than"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "1 to 256"),
        ({"stop": "x" * 257}, "stop", "1 to 256"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"tools": [WEATHER] * 2}, "tools", "same name"),
        ({"tools": [WEATHER] * 129}, "tools", "128"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{**WEATHER, "function": {"name": "f", "description": "x" * (256 << 10)}}]}, "tools", "longer"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice.type", "required"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.function", "missing"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice.function.name", "none of the tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "boolean"),
        ({"mm_processor_kwargs": {"fps": 0}}, "mm_processor_kwargs.fps", "greater than 0"),
        ({"min_tokens": 10**9}, "min_tokens", "not supported"),
        ({"ignore_eos": True}, "ignore_eos", "not supported"),
    ],
)  # fmt: skip
def test_refusals(more: dict[str, Any], param: str, says: str) -> None:
    reply = post(json.dumps({"model": MODEL, "messages": SUM, **more}))
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"] and error["code"] and len(error["message"]) < 500


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"model": NaN}', "application/json"),
        (b'"\\ud800"', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"{}", "text/plain"),
        (b"\xff", "application/json"),
    ],
)
def test_bodies_that_are_none(body: bytes, kind: str) -> None:
    reply = post(body, kind)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(("model", "status", "says"), [({"model": "gpt-4o"}, 404, MODEL), ({}, 400, "model is missing")])
def test_another_model(model: dict[str, str], status: int, says: str) -> None:
    reply = post(json.dumps({**model, "messages": SUM}))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, "model") and says in error["message"]
    assert error["code"] == ("model_not_found" if model else "missing_required_parameter")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["user", "assistant", "tool", "system", "text", "image_url", "input_audio", "refusal", "function", "a"]
)
KEYS = st.sampled_from(
    [
        *("role", "content", "type", "text", "image_url", "url", "data", "format", "audio", "id", "tool_calls"),
        *("function", "name", "arguments", "tool_call_id", "input_audio", "refusal", "voice"),
    ]
)
NEAR = st.recursive(
    WORDS | JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
FIELDS = st.sampled_from([*ChatRequest.model_fields, "unknown"])
BODIES = st.builds(
    lambda more, messages: {"model": MODEL, "messages": messages, **more},
    st.dictionaries(FIELDS, NEAR, max_size=3),
    st.just(SUM) | st.lists(st.dictionaries(KEYS, NEAR, max_size=4), max_size=3),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES | NEAR)
def test_no_body_breaks_the_server(body: Any) -> None:
    reply = post(json.dumps(body))
    assert reply.status_code < 500
    print("STAT", reply.status_code, reply.json().get("error", {}).get("code"))
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]
