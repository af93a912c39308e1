"""Requests in the shapes that published clients send, whatever their users asked for, and what becomes of each."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from omni import TextDelta
from omni.streaming.app import create_app
from omni.streaming.audio.wire import encode_file
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Settings
from tests.streaming.doubles import RATE, Scripted, data_url, done, hub_of, sound

Json = dict[str, Any]

MODEL = "gpt-4o-mini"
USER: Json = {"role": "user", "content": "Is it cold in Rome?"}
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How warm it is",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
NAMED: Json = {"type": "function", "function": {"name": "weather"}}
CALLED: Json = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}
RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": "3 degrees"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'
WAV = base64.b64encode(encode_file("wav", sound().samples, RATE)).decode()

MENS = ("ash", "ballad", "echo", "fable", "onyx", "verse", "cedar", "ETHAN")

ANSWERED: dict[str, tuple[Json, str]] = {
    "openai-python, what parse() and model_dump() send back": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "audio": None,
                    "function_call": None, "tool_calls": None, "parsed": None,
                },
                USER,
            ]
        },
        "",
    ),
    "openai-python, a stream's message with calls": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant", "content": None, "refusal": None, "audio": None,
                    "tool_calls": [{**CALLED, "index": 0, "function": {**CALLED["function"], "parsed_arguments": {}}}],
                },
                RESULT,
            ],
            "tools": [TOOL],
        },
        "",
    ),
    "openai-node": (
        {"messages": [USER], "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        "",
    ),
    "langchain": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {**USER, "name": "example_user"},
                {"role": "assistant", "content": None, "tool_calls": [CALLED]},
                {**RESULT, "name": "weather"},
            ],
            "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "stream": False, "n": 1,
            "temperature": 0.7,
        },
        "",
    ),
    "langchain, agents of before tools": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": ""}},
                {"role": "function", "name": "weather", "content": "3"},
            ]
        },
        "",
    ),
    "llama-index": (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "stream": False, "temperature": 0.1, "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True,
            "max_tokens": None,
        },
        "",
    ),
    "litellm": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
                {
                    "role": "assistant", "content": "Hm.", "provider_specific_fields": {"refusal": None},
                    "reasoning_content": "cold", "thinking_blocks": [],
                },
                USER,
            ],
            "user": "u", "metadata": {"a": "b"}, "stop": None, "logit_bias": {}, "frequency_penalty": 0.0,
        },
        "",
    ),
    "instructor, tools": ({"messages": [USER], "tools": [TOOL], "tool_choice": NAMED}, ""),
    "ai sdk": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": data_url("scene.png", "image/png")}},
                        {"type": "input_audio", "input_audio": {"data": f"data:audio/wav;base64,{WAV}", "format": "wav"}},
                        {"type": "file", "file": {"filename": "v", "file_data": data_url("clip.mp4", "video/mp4")}},
                    ],
                },
                {"role": "assistant", "content": "", "tool_calls": [CALLED], "reasoning_content": "hm"},
                RESULT,
            ],
            "tools": [{**TOOL, "function": {**TOOL["function"], "strict": True}}], "tool_choice": "auto", "seed": 1,
            "max_tokens": 100,
        },
        "",
    ),
    "open webui": (
        {
            "messages": [USER], "stream": True, "session_id": "s", "chat_id": "c", "id": "m", "background_tasks": {},
            "features": {"web_search": False}, "params": {}, "seed": -1, "top_k": 40, "min_p": 0.0, "stream_options": {},
        },
        "session_id, chat_id, id, background_tasks, features, params",
    ),
    "librechat": (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, "there"]}],
            "stream": True, "temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "user": "6f",
            "stop": ["||>"],
        },
        "",
    ),
    "home assistant": (
        {
            "messages": [{"role": "developer", "content": "You are a house."}, USER],
            "tools": [TOOL], "tool_choice": "auto", "max_tokens": 150, "top_p": 1.0, "temperature": 1.0, "user": "01J",
            "parallel_tool_calls": None, "store": False, "service_tier": "auto",
        },
        "",
    ),
    "pipecat": (
        {
            "messages": [
                {"role": "system", "content": "You talk."},
                {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
            ],
            "stream": True, "stream_options": {"include_usage": True}, "max_tokens": None, "max_completion_tokens": 99,
            "seed": None, "frequency_penalty": None, "service_tier": None,
        },
        "",
    ),
    "livekit": (
        {
            "messages": [USER], "stream": True, "stream_options": {"include_usage": True}, "tools": [TOOL],
            "tool_choice": "auto", "parallel_tool_calls": True, "prompt_cache_key": "k", "safety_identifier": "s",
            "verbosity": None, "reasoning_effort": "none",
        },
        "",
    ),
    "vllm's own clients": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "video_url", "video_url": data_url("clip.mp4", "video/mp4"), "uuid": "u"}],
                }
            ],
            "top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "skip_special_tokens": True, "ignore_eos": False,
            "chat_template_kwargs": {}, "mm_processor_kwargs": {"fps": 2, "use_audio_in_video": False, "do_resize": True},
            "add_generation_prompt": True, "continue_final_message": False, "stop_token_ids": [], "priority": 0,
        },
        "mm_processor_kwargs.do_resize",
    ),
}  # fmt: skip
"""By the client: what it sends, and which fields of it nobody here knows."""

REFUSED: dict[str, tuple[Json, str, str]] = {
    "instructor, json": ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    "instructor, json schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        "response_format",
        "unsupported_parameter",
    ),
    "langchain, functions": ({"functions": [TOOL["function"]]}, "functions", "unsupported_parameter"),
    "open webui, min_p": ({"min_p": 0.05}, "min_p", "unsupported_parameter"),
    "litellm, penalties": ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
    "vllm, prefill": ({"continue_final_message": True}, "continue_final_message", "unsupported_parameter"),
    "a tool that is none": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice.type",
        "invalid_value",
    ),
}


def hub(omni: Scripted | None = None, **settings: Any) -> Hub:
    return hub_of(omni or Scripted(), Settings(aliases=(MODEL, "tts-1", "gpt-4o-mini-tts"), **settings))


def ask(hub: Hub, path: str, body: Json | None = None) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(hub))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await (http.get(path) if body is None else http.post(path, json=body))

    return asyncio.run(send())


def chunks(text: str) -> Iterator[ChatCompletionChunk]:
    *lines, last = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert last == "[DONE]"
    yield from map(ChatCompletionChunk.model_validate_json, lines)


def exactly(model: Any, data: Any) -> None:
    """No field but the published client's own."""
    assert not model.model_extra, model.model_extra
    for name in data:
        value = getattr(model, name)
        for each, raw in zip(value, data[name], strict=True) if isinstance(value, list) else [(value, data[name])]:
            if hasattr(each, "model_extra"):
                exactly(each, raw)


@pytest.mark.parametrize("client", ANSWERED)
def test_what_clients_send_is_answered(client: str) -> None:
    body, ignored = ANSWERED[client]
    called = "tools" in body and body.get("tool_choice", "auto") != "auto"
    server = hub(Scripted(TextDelta(CALL if called else "Yes."), done()))
    reply = ask(server, "/v1/chat/completions", {"model": MODEL, **body})
    server.close()
    assert reply.status_code == 200, reply.text
    assert reply.headers.get("x-omni-ignored", "") == ignored
    if body.get("stream"):
        told = list(chunks(reply.text))
        assert "".join(c.choices[0].delta.content or "" for c in told if c.choices) == "Yes."
        return
    whole = ChatCompletion.model_validate_json(reply.text)
    exactly(whole, reply.json())
    (choice,) = whole.choices
    assert choice.finish_reason == ("tool_calls" if called else "stop")
    assert (choice.message.content is None) == called


@pytest.mark.parametrize("client", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(client: str) -> None:
    more, param, code = REFUSED[client]
    reply = ask(hub(), "/v1/chat/completions", {"model": MODEL, "messages": [USER], **more})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize("voice", ["alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer",
                                   "verse", "marin", "cedar", "ETHAN", "", None, {"id": "alloy"}])  # fmt: skip
def test_voices_of_foreign_clients_speak(voice: Any) -> None:
    omni = Scripted(TextDelta("Hello."), sound(), done())
    body = {"model": "gpt-4o-mini-tts", "voice": voice, "input": "Hello.", "response_format": "pcm", "speed": None}
    reply = ask(hub(omni), "/v1/audio/speech", body)
    assert reply.status_code == 200 and len(reply.content) > 20000
    assert omni.asked[0]["voice"] == ("Ethan" if voice in MENS else "Chelsie")


def test_what_open_webui_lists() -> None:
    voices = ask(hub(), "/v1/audio/voices").json()["voices"]
    assert {voice["id"]: voice["name"] for voice in voices} == {"Chelsie": "Chelsie", "Ethan": "Ethan"}
    names = [model["id"] for model in ask(hub(), "/v1/models").json()["data"]]
    assert names == ["omni-small", MODEL, "tts-1", "gpt-4o-mini-tts"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session_id": "s"}, "session_id"),
        ({"messages": [{**USER, "colour": "red"}]}, "messages[0].colour"),
        ({"messages": [USER], "mm_processor_kwargs": {"do_resize": False}}, "mm_processor_kwargs.do_resize"),
    ],
)
def test_a_strict_server_passes_nothing_over(body: Json, param: str) -> None:
    reply = ask(hub(strict=True), "/v1/chat/completions", {"model": MODEL, "messages": [USER], **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert reply.json()["error"]["code"] == "unsupported_parameter"
