"""POST /v1/chat/completions, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from omni import Omni, TextDelta
from omni.errors import CapacityError, ContextError, EngineError
from omni.events import TokenLogprob
from omni.streaming.settings import Limits
from tests.streaming.doubles import MODEL, Scripted, data_url, decoded, done, hub_of, openai_of, serving, sound

SUM: Any = [{"role": "user", "content": "What is two plus three?"}]
ALOUD: Any = {"modalities": ["text", "audio"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def client(omni: Omni) -> Iterator[OpenAI]:
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        yield client


def ask(client: OpenAI, messages: Any = SUM, **more: Any) -> ChatCompletion:
    return client.chat.completions.create(model=MODEL, messages=messages, **more)


def stream(client: OpenAI, messages: Any = SUM, **more: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model=MODEL, messages=messages, stream=True, **more))


def audio_of(delta: Any) -> dict[str, Any]:
    return delta.audio.model_dump(exclude_none=True) if delta.audio else {}


# ---- what is answered


def test_text(client: OpenAI) -> None:
    reply = ask(client, temperature=0)
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason, choice.logprobs) == ("Two plus three is five.", "stop", None)
    assert choice.message.role == "assistant" and choice.message.audio is None and choice.message.tool_calls is None
    assert reply.model == MODEL and reply.id.startswith("chatcmpl-") and abs(reply.created - time.time()) < 60
    used = reply.usage
    assert used and used.prompt_tokens_details and used.completion_tokens_details
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert used.prompt_tokens_details.text_tokens == used.prompt_tokens > 10
    assert used.completion_tokens_details.text_tokens == used.completion_tokens == 6


def test_pieces_are_the_whole(client: OpenAI) -> None:
    chunks = stream(client, stream_options={"include_usage": True})
    *parts, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == "Two plus three is five."
    assert parts[0].choices[0].delta.role == "assistant" and len(parts) > 4
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in parts) and len({chunk.id for chunk in chunks}) == 1
    assert last.choices == [] and last.usage == ask(client).usage


def test_a_picture(client: OpenAI) -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": data_url("scene.png", "image/png"), "detail": "high"}},
        {"type": "text", "text": "What is in the middle?"},
    ]
    reply = ask(client, [{"role": "user", "content": parts}])
    assert reply.choices[0].message.content == "A red circle."
    assert reply.usage and reply.usage.prompt_tokens_details
    assert reply.usage.prompt_tokens_details.image_tokens == 54


def test_a_spoken_question_about_a_picture(client: OpenAI) -> None:
    sound = data_url("where.ogg", "audio/ogg").partition(",")[2]
    parts = [
        {"type": "image_url", "image_url": {"url": data_url("scene.png", "image/png")}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "ogg"}},
    ]
    assert ask(client, [{"role": "user", "content": parts}]).choices[0].message.content == "It is at the top right."


def test_a_clip(client: OpenAI) -> None:
    parts = [
        {"type": "video_url", "video_url": {"url": data_url("clip.mp4", "video/mp4")}},
        {"type": "audio_url", "audio_url": {"url": data_url("what_moves.ogg", "audio/ogg")}},
    ]
    assert ask(client, [{"role": "user", "content": parts}]).choices[0].message.content == "The orange star moves."


def test_aloud_whole_in_pieces_and_remembered(client: OpenAI) -> None:
    """The same words and sound, whichever way they are sent; and a later question may refer to them by their id."""
    question = [{"role": "user", "content": "What comes after forty one?"}]
    voice = {**ALOUD, "seed": 7, "max_tokens": 20}
    chunks = stream(client, question, audio={"voice": {"id": "Ethan"}, "format": "pcm16"}, **voice)
    audio = [audio_of(chunk.choices[0].delta) for chunk in chunks]
    (ids, expiry) = ([a for a in audio if key in a] for key in ("id", "expires_at"))
    assert len(ids) == 1 and "data" not in ids[0] and list(expiry[0]) == ["expires_at"]
    assert "".join(a.get("transcript", "") for a in audio) == "Forty two."
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    pcm = b"".join(base64.b64decode(a["data"]) for a in audio if "data" in a)

    reply = ask(client, question, audio={"voice": "Ethan", "format": "wav"}, **voice)
    message, used = reply.choices[0].message, reply.usage
    assert message.content is None and message.audio and message.audio.transcript == "Forty two."
    wave = decoded(base64.b64decode(message.audio.data))
    np.testing.assert_array_equal(wave, np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    assert np.abs(wave).max() > 0.1
    assert used and used.completion_tokens_details and used.completion_tokens_details.audio_tokens
    assert used.completion_tokens_details.audio_tokens * 480 == len(wave)

    for spoken_id in (message.audio.id, ids[0]["id"]):
        past = [*question, {"role": "assistant", "audio": {"id": spoken_id}}, question[0]]
        told = [*question, {"role": "assistant", "content": "Forty two."}, question[0]]
        assert ask(client, past).usage == ask(client, told).usage


def test_choices_differ_and_the_first_is_the_one_alone(client: OpenAI) -> None:
    joke = [{"role": "user", "content": "Tell me a joke."}]
    options = {"temperature": 2.0, "seed": 5, "max_tokens": 12}
    three, one = ask(client, joke, n=3, **options), ask(client, joke, **options)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) > 1
    assert three.usage and one.usage and three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens > one.usage.completion_tokens
    again = stream(client, joke, n=3, **options)
    parts = [[c.choices[0].delta.content or "" for c in again if c.choices[0].index == i] for i in range(3)]
    assert ["".join(part) for part in parts] == texts


def test_limits_and_stops(client: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        choice = ask(client, **{name: 2}).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Two plus", "length")
    choice = ask(client, stop=" is").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Two plus three", "stop")
    assert ask(client, stop=["never", "plus"]).choices[0].message.content == "Two "


def test_logprobs(client: OpenAI) -> None:
    (choice,) = ask(client, logprobs=True, top_logprobs=2).choices
    assert choice.logprobs and choice.logprobs.content
    assert "".join(token.token for token in choice.logprobs.content) == "Two plus three is five."
    for token in choice.logprobs.content:
        assert bytes(token.bytes or []).decode() == token.token
        assert len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob == token.logprob <= 0
    chunks = stream(client, logprobs=True)
    parts = [c.choices[0].logprobs.content or [] for c in chunks if c.choices[0].logprobs]
    assert [t.token for part in parts for t in part] == [token.token for token in choice.logprobs.content]
    assert not any(t.top_logprobs for part in parts for t in part)


def test_a_conversation_and_a_system_prompt(client: OpenAI) -> None:
    first = ask(client).choices[0].message
    past = [{"role": "developer", "content": "You are Omni."}, *SUM, first.model_dump(), *SUM]
    assert ask(client, past).choices[0].message.content


def test_a_template_without_tools_is_given_them_and_that_is_told(client: OpenAI) -> None:
    reply = client.chat.completions.with_raw_response.create(model=MODEL, messages=SUM, tools=[WEATHER])
    assert "written into the system's message" in reply.headers["x-omni-warnings"]
    used = reply.parse().usage
    assert used and used.prompt_tokens > 200
    assert ask(client, tools=[WEATHER], tool_choice="none").choices[0].message.content == "Two plus three is five."


# ---- with a runtime that says what it is told to


def test_what_the_runtime_is_asked() -> None:
    omni = Scripted()
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        ask(client, user="u", store=True, metadata={"a": "b"}, service_tier="auto", frequency_penalty=0, logit_bias={})
        more: Any = {"extra_body": {"top_k": 3, "repetition_penalty": 1.1}}
        ask(client, temperature=0.5, top_p=0.9, seed=3, n=2, stop="x", logprobs=True, max_completion_tokens=9, **more)
    plain, *both = omni.asked
    assert plain["max_tokens"] == Limits().tokens and plain["voice"] is None and not plain["tools"]
    assert not {"temperature", "top_p", "top_k", "stop", "logprobs"} & plain.keys()
    assert [asked.pop("seed") for asked in both] == [3, 4]
    assert both[0] == both[1] == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is two plus three?"}]}],
        "voice": None, "tools": [], "must_call": False, "template_args": None,
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3,
        "repetition_penalty": 1.1, "stop": ["x"], "logprobs": 0,
    }  # fmt: skip


def test_a_model_that_calls_nothing_is_given_no_tools() -> None:
    omni = Scripted()
    omni.calls = False
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        with pytest.raises(openai.BadRequestError, match="calls no functions") as caught:
            ask(client, tools=[WEATHER])
        assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
        ask(client, tools=[WEATHER], tool_choice="none")


OTHER: Any = {"type": "function", "function": {"name": "time"}}
CHOICES: list[tuple[Any, Any, list[str]]] = [
    ("auto", False, ["weather", "time"]),
    ("required", True, ["weather", "time"]),
    ({"type": "function", "function": {"name": "time"}}, "time", ["weather", "time"]),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}}, True, ["time"]),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}}, False, ["time"]),
    ("none", False, []),
]


@pytest.mark.parametrize(("choice", "must_call", "given"), CHOICES)
def test_a_choice_of_tools(choice: Any, must_call: Any, given: list[str]) -> None:
    omni = Scripted()
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        ask(client, tools=[WEATHER, OTHER], tool_choice=choice)
        ask(client, tools=[WEATHER, OTHER], tool_choice=choice, parallel_tool_calls=False, stop=["x"])
    first, second = omni.asked
    assert first["must_call"] == must_call and [tool["function"]["name"] for tool in first["tools"]] == given
    one = isinstance(choice, dict) and choice["type"] == "function"
    assert first.get("stop", []) == (["</tool_call>"] if one else [])
    assert second["stop"] == (["x", "</tool_call>"] if given else ["x"])


def test_a_tool_may_hold_any_json() -> None:
    omni = Scripted()
    odd = {"type": "object", "properties": {"x": {"maximum": 10**30, "enum": [None, 1.5, "\u2603"]}}}
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        ask(client, tools=[{"type": "function", "function": {"name": "f", "parameters": odd}}])
    assert omni.asked[0]["tools"][0]["function"]["parameters"] == odd


def test_tools() -> None:
    omni = Scripted(TextDelta("I look. "), TextDelta(CALL[:20]), TextDelta(CALL[20:]), TextDelta("\n" + CALL), done())
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        reply = ask(client, tools=[strict], tool_choice="auto", parallel_tool_calls=True)
        chunks = stream(client, tools=[strict])
        message = reply.choices[0].message
        assert message.tool_calls and message.content == "I look."
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": text}
            for call, text in zip(message.tool_calls, ["Sunny.", "Dry."], strict=True)
        ]
        ask(client, [*SUM, message.model_dump(), *results], tools=[WEATHER])
    assert reply.choices[0].finish_reason == "tool_calls" and omni.asked[0]["tools"] == [WEATHER]
    calls: Any = message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"place": "Rome"})
    ] * 2
    assert len({call.id for call in calls}) == 2

    deltas = [chunk.choices[0].delta for chunk in chunks]
    streamed = [call for delta in deltas for call in delta.tool_calls or []]
    assert [call.index for call in streamed] == [0, 1]
    assert all(call.id and call.function and call.function.name == "weather" for call in streamed)
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    _, assistant, *told = omni.asked[-1]["messages"]
    assert assistant["content"] == "I look." and [c["function"]["name"] for c in assistant["tool_calls"]] == ["weather"] * 2
    assert told == [{"role": "tool", "content": "Sunny."}, {"role": "tool", "content": "Dry."}]


@pytest.mark.parametrize("words", ["I look. ", ""])
def test_tools_of_an_answer_aloud(words: str) -> None:
    """What is written beside a call is spoken, the call is not."""
    omni = Scripted(TextDelta(words), *([sound(0.5)] if words else []), TextDelta(CALL), done())
    aloud: Any = {**ALOUD, "audio": {"format": "pcm16"}}
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        message = ask(client, tools=[WEATHER], **aloud).choices[0].message
        chunks = stream(client, tools=[WEATHER], **aloud)
        assert message.tool_calls
        answered = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Dry."}
        ask(client, [*SUM, message.model_dump(exclude_none=True), answered], tools=[WEATHER], **aloud)
    assert message.content is None and [call.type for call in message.tool_calls] == ["function"]
    assert (message.audio.transcript if message.audio else "") == words.strip()
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert len([call for delta in deltas for call in delta.tool_calls or []]) == 1
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(audio_of(delta).get("transcript", "") for delta in deltas) == words.strip()
    heard = base64.b64decode("".join(audio_of(delta).get("data", "") for delta in deltas))
    assert len(heard) == (24000 if words else 0)


def test_warnings_of_a_stream_stand_in_its_last_piece() -> None:
    omni = Scripted(TextDelta("Yes."), replace(done(), warnings=("one packet is damaged",)))
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        *_, last = stream(client)
        assert last.model_dump()["warnings"] == ["one packet is damaged"]
        *_, last = stream(client, stream_options={"include_usage": True})
        assert "warnings" not in last.model_dump()


@pytest.mark.parametrize(
    ("script", "finish_reason", "content"),
    [
        ((TextDelta("So: "), TextDelta(CALL[:-20]), done("length", ("text",))), "length", "So:"),
        ((TextDelta(CALL), done("length", ("text",))), "length", None),
        ((TextDelta("<tool_ca"), done()), "stop", "<tool_ca"),
    ],
)
def test_calls_and_limits(script: Any, finish_reason: str, content: str | None) -> None:
    with serving(hub_of(Scripted(*script))) as address, openai_of(address) as client:
        (choice,) = ask(client, tools=[WEATHER]).choices
    assert (choice.finish_reason, choice.message.content) == (finish_reason, content)


@pytest.mark.parametrize(
    "text", [CALL.replace("weather", "rockets"), "<tool_call>{nonsense", CALL.replace('"Rome"', "Rome")]
)
def test_calls_that_are_none(text: str) -> None:
    with serving(hub_of(Scripted(TextDelta(text), done()))) as address, openai_of(address) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, tools=[WEATHER])
        assert caught.value.code == "invalid_tool_call"


def test_no_chance_at_all_is_a_number() -> None:
    token = TokenLogprob(b"\xc3", -1.0, ((b"\xc3", -1.0), (b"b", float("-inf"))))
    with serving(hub_of(Scripted(TextDelta("", (token,)), TextDelta("ü"), done()))) as address, openai_of(address) as client:
        (choice,) = ask(client, logprobs=True, top_logprobs=2).choices
    assert choice.logprobs and choice.logprobs.content
    (told,) = choice.logprobs.content
    assert (told.token, told.bytes, told.top_logprobs[1].logprob) == ("\ufffd", [0xC3], -9999.0)


@pytest.mark.parametrize("name", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
def test_every_format_aloud(name: str) -> None:
    omni = Scripted(TextDelta("Yes."), sound(0.4), sound(0.4), done(codec_tokens=40))
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        aloud: Any = {**ALOUD, "audio": {"voice": "Ethan", "format": name}}
        message = ask(client, **aloud).choices[0].message
        chunks = [audio_of(chunk.choices[0].delta) for chunk in stream(client, **aloud)]
    assert message.audio and omni.asked[0]["voice"] == "Ethan"
    for data in (base64.b64decode(message.audio.data), b"".join(base64.b64decode(c["data"]) for c in chunks if "data" in c)):
        wave = np.frombuffer(data, "<i2") / 32768 if name == "pcm16" else decoded(data)
        assert len(wave) == pytest.approx(0.8 * 24000, abs=0.1 * 24000)
        assert np.sqrt(np.mean(wave[4800:14400] ** 2)) == pytest.approx(0.35, abs=0.1)


# ---- what goes wrong


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CapacityError("all full"), 503, "overloaded"),
        (ContextError("too long"), 400, "context_length_exceeded"),
        (EngineError("secret detail"), 500, "server_error"),
    ],
)
def test_faults_before_the_first_word_are_statuses(error: Exception, status: int, code: str, streamed: bool) -> None:
    with (
        serving(hub_of(Scripted(error))) as address,
        openai_of(address) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        ask(client, stream=streamed)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "secret" not in caught.value.message


def test_a_fault_on_the_way_is_an_event_and_the_end() -> None:
    omni = Scripted(TextDelta("Two "), TextDelta("plus "), EngineError("secret detail"))
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        chunks = client.chat.completions.create(model=MODEL, messages=SUM, stream=True)
        got = [next(chunks).choices[0].delta.content for _ in range(3)]
        with pytest.raises(openai.APIError) as caught:
            next(chunks)
        raw = httpx.post(
            f"{address}/v1/chat/completions", json={"model": MODEL, "messages": SUM, "stream": True}, trust_env=False
        )
    assert got == ["", "Two ", "plus "] and caught.value.code == "server_error"
    assert "secret" not in raw.text and "[DONE]" not in raw.text and raw.text.count('"error"') == 1


def test_headers_of_a_stream(client: OpenAI) -> None:
    reply = httpx.post(
        f"{client.base_url}chat/completions", json={"model": MODEL, "messages": SUM, "stream": True}, trust_env=False
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store" and reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["x-request-id"] and reply.text.endswith("data: [DONE]\n\n")


# ---- clients that leave


def leave(address: str, body: dict[str, Any], until: threading.Event) -> None:
    """Ask, and hang up once something has happened."""
    content = json.dumps({"model": MODEL, "messages": SUM, **body}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert until.wait(20)


@pytest.mark.parametrize("script", [(None,), (TextDelta("Two "), None)])
@pytest.mark.parametrize("body", [{}, {"stream": True}, {"n": 3, "stream": True}])
def test_a_client_that_leaves_ends_the_answer(script: Any, body: dict[str, Any]) -> None:
    omni = Scripted(*script)
    with serving(hub_of(omni)) as address:
        leave(address, body, omni.begun)
        assert omni.ended.wait(20)


def test_a_client_that_leaves_frees_the_engine(omni: Omni) -> None:
    hub = hub_of(omni)
    with serving(hub) as address, openai_of(address) as client:
        endless = client.chat.completions.create(
            model=MODEL, messages=SUM, stream=True, n=8, temperature=2, extra_body={"repetition_penalty": 10.0}
        )
        next(endless)
        endless.close()
        ends = {"endpoint": "chat", "finish_reason": "cancelled"}
        deadline = time.monotonic() + 20
        while omni.engine._num_open and time.monotonic() < deadline:
            omni.ping(1)
    assert omni.engine._num_open == 0
    assert hub.metrics.registry.get_sample_value("omni:answers_total", ends)
