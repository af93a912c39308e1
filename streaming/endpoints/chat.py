"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from omni import AudioChunk, Done, Event, Omni, TextDelta, __version__
from omni.streaming.audio.wire import Base64Pieces, FileEncoder, encode_file
from omni.streaming.endpoints.chat_messages import Spoken, to_omni
from omni.streaming.endpoints.chat_request import (
    SEEDS,
    AudioOut,
    ChatRequest,
    call_of,
    check,
    looking_of,
    options_of,
    seed_of,
    tools_of,
)
from omni.streaming.endpoints.http import Events, Route, begun, while_there
from omni.streaming.endpoints.logprobs import told_logprob
from omni.streaming.endpoints.voices import voice_for
from omni.streaming.fields import check_calls
from omni.streaming.notices import warn
from omni.streaming.problems import Problem, server_fault
from omni.streaming.server.hub import Hub
from omni.streaming.tools import Call, CallError, CallParser
from omni.streaming.usage import chat_usage

router = APIRouter(route_class=Route)

FINGERPRINT = f"omni-{__version__}"


@dataclass
class Choice:
    """One choice: events go in, deltas come out, and what they make up is kept.

    Attributes:
        spoken_id: of its sound; None for text alone.
        encoder: of its sound, where that is sent in pieces; otherwise `samples` are kept.
        parser: finds calls in its text; None where there are no tools.
        logprobs: of tokens, of which `num_told` are told.
    """

    index: int
    spoken: Spoken
    spoken_id: str | None
    encoder: FileEncoder | None
    parser: CallParser | None
    text: str = ""
    samples: list[NDArray[np.float32]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    num_told: int = 0
    coded: Base64Pieces = field(default_factory=Base64Pieces)
    expires_at: int = 0
    done: Done | None = None

    async def take(self, event: Event) -> list[dict[str, Any]]:
        """The deltas that an event adds."""
        match event:
            case TextDelta():
                self.logprobs += map(told_logprob, event.logprobs)
                try:
                    told, calls = self.parser.push(event.text) if self.parser else (event.text, [])
                except CallError as e:
                    raise _bad_call(e) from e
                return self._write(told, calls)
            case AudioChunk():
                if self.encoder:
                    data = await asyncio.to_thread(self.encoder.push, event.samples)
                    return _sound(self.coded.push(data))
                self.samples.append(event.samples)
                return []
            case Done():
                return await self._end(event)

    async def _end(self, done: Done) -> list[dict[str, Any]]:
        self.done = done
        warn(done.warnings)
        deltas: list[dict[str, Any]] = []
        if self.parser:
            try:
                deltas += self._write(*self.parser.finish())
            except CallError as e:
                if done.finish_reason != "length":  # a call that a limit cut short is dropped
                    raise _bad_call(e) from e
        if self.encoder:
            data = await asyncio.to_thread(self.encoder.finish)
            deltas += _sound(self.coded.push(data)) + _sound(self.coded.finish())
        if self.spoken_id:
            self.expires_at = self.spoken.keep(self.spoken_id, self.text)
            deltas.append({"audio": {"expires_at": self.expires_at}})
        return deltas

    def _write(self, text: str, calls: Sequence[Call]) -> list[dict[str, Any]]:
        self.text += text
        deltas: list[dict[str, Any]] = []
        if text:
            deltas.append({"audio": {"transcript": text}} if self.spoken_id else {"content": text})
        for call in calls:
            function = {"name": call.name, "arguments": call.arguments}
            called = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            deltas.append({"tool_calls": [{"index": len(self.calls), **called}]})
            self.calls.append(called)
        return deltas

    def new_logprobs(self) -> dict[str, Any] | None:
        """Those that were not told before."""
        new, self.num_told = self.logprobs[self.num_told :], len(self.logprobs)
        return {"content": new, "refusal": None} if new else None

    @property
    def finish_reason(self) -> str:
        assert self.done
        return "tool_calls" if self.calls and self.done.finish_reason == "stop" else self.done.finish_reason

    async def message(self, audio: AudioOut | None, rate: int) -> dict[str, Any]:
        """The whole of it, where it was not sent in pieces."""
        unwritten = self.spoken_id or (self.calls and not self.text)
        message: dict[str, Any] = {"role": "assistant", "content": None if unwritten else self.text, "refusal": None}
        if self.calls:
            message["tool_calls"] = self.calls
        if audio and (self.text or not self.calls):  # a call is not spoken
            samples = np.concatenate([np.empty(0, np.float32), *self.samples])
            data = _base64(await asyncio.to_thread(encode_file, audio.format, samples, rate))
            told = {"id": self.spoken_id, "data": data, "expires_at": self.expires_at, "transcript": self.text}
            message["audio"] = told
        return message


def _bad_call(error: CallError) -> Problem:
    return server_fault(f"{error}; try again", "invalid_tool_call")


def _sound(data: str) -> list[dict[str, Any]]:
    return [{"audio": {"data": data}}] if data else []


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _usage(choices: Sequence[Choice]) -> dict[str, Any]:
    return chat_usage([choice.done.usage for choice in choices if choice.done])


async def together(streams: Sequence[AsyncGenerator[Event]]) -> AsyncGenerator[tuple[int, Event]]:
    """Events of several answers as they come, each with its answer's index; closing this ends them all."""
    came: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(maxsize=len(streams))

    async def forward(i: int, events: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await came.put((i, event))
        except Exception as e:  # raised where the events are read
            await came.put((i, e))

    tasks = [asyncio.create_task(forward(i, events)) for i, events in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            i, event = await came.get()
            if isinstance(event, Exception):
                raise event
            left -= isinstance(event, Done)
            yield i, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@router.post("/v1/chat/completions", responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}})
async def complete(asked: ChatRequest, request: Request) -> Response:
    """Answer a chat, in text or aloud, at once or as server-sent events."""
    hub: Hub = request.app.state.hub
    hub.check_model(asked.model)
    check(asked, hub.settings.limits)
    voice = voice_for(hub.omni, asked.audio.voice, "audio.voice") if asked.audio else None
    if tools_of(asked):
        check_calls(hub.omni.capabilities, "tools")
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": hub.name,
        "system_fingerprint": FINGERPRINT,
        "service_tier": "default",
    }
    spoken = spoken_of(request)
    messages = await while_there(request, to_omni(hub, asked.messages, spoken, looking_of(asked)))
    rate = hub.omni.sample_rate if asked.audio else 0
    choices = await asyncio.to_thread(_choices, asked, spoken, rate)
    omni = hub.omni_for(request, asked.cache_salt or "")
    events = together(_streams(hub, omni, asked, messages, voice, len(choices)))
    if asked.stream:
        return Events(await begun(request, _chunks(asked, head, choices, events)), last=b"[DONE]")
    body = await while_there(request, _whole(asked, rate, head, choices, events))
    return Response(orjson.dumps(body), media_type="application/json")


def spoken_of(request: Request) -> Spoken:
    """What was said to the clients of this server."""
    state = request.app.state
    if not hasattr(state, "spoken"):
        state.spoken = Spoken()
    spoken: Spoken = state.spoken
    return spoken


def _choices(asked: ChatRequest, spoken: Spoken, rate: int) -> list[Choice]:
    """One for each choice; opening an encoder takes a while."""
    names = [tool["function"]["name"] for tool in tools_of(asked)]
    return [
        Choice(
            i,
            spoken,
            spoken.new_id() if asked.audio else None,
            FileEncoder(asked.audio.format, rate) if asked.audio and asked.stream else None,
            CallParser(names) if names else None,
        )
        for i in range(asked.n or 1)
    ]


def _streams(
    hub: Hub, omni: Omni, asked: ChatRequest, messages: list[dict[str, Any]], voice: str | None, num: int
) -> list[AsyncGenerator[Event]]:
    """One answer for each choice; the first is the one that its seed gives alone."""
    how = {
        "voice": voice,
        "tools": tools_of(asked),
        "must_call": call_of(asked),
        "template_args": asked.chat_template_kwargs,
        **options_of(asked, hub.settings.limits),
    }
    seed = seed_of(asked)
    return [hub.metrics.watched("chat", omni.astream(messages, seed=(seed + i) % SEEDS, **how)) for i in range(num)]


async def _whole(
    asked: ChatRequest,
    rate: int,
    head: dict[str, Any],
    choices: Sequence[Choice],
    events: AsyncGenerator[tuple[int, Event]],
) -> dict[str, Any]:
    async with aclosing(events):
        async for i, event in events:
            await choices[i].take(event)
    told = []
    for choice in choices:
        message, logprobs = await choice.message(asked.audio, rate), choice.new_logprobs()
        about = {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}
        told.append(about)
    return {**head, "object": "chat.completion", "choices": told, "usage": _usage(choices)}


async def _chunks(
    asked: ChatRequest, head: dict[str, Any], choices: Sequence[Choice], events: AsyncGenerator[tuple[int, Event]]
) -> AsyncGenerator[dict[str, Any]]:
    counted = bool(asked.stream_options and asked.stream_options.include_usage)
    head = {**head, "object": "chat.completion.chunk", **({"usage": None} if counted else {})}

    def chunk(choice: Choice, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        about = {"index": choice.index, "delta": delta, "logprobs": choice.new_logprobs(), "finish_reason": finish_reason}
        return {**head, "choices": [about]}

    fresh = {choice.index for choice in choices}
    async with aclosing(events):
        async for i, event in events:
            choice = choices[i]
            if i in fresh:
                fresh.remove(i)
                yield chunk(choice, {"role": "assistant", "content": None if choice.spoken_id else "", "refusal": None})
                if choice.spoken_id:
                    yield chunk(choice, {"audio": {"id": choice.spoken_id}})
            for delta in await choice.take(event):
                yield chunk(choice, delta)
            if choice.done:
                told = {"warnings": list(choice.done.warnings)} if choice.done.warnings else {}  # the headers are out
                yield chunk(choice, {}, choice.finish_reason) | told
    if counted:
        yield {**head, "choices": [], "usage": _usage(choices)}
