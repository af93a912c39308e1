"""What POST /v1/chat/completions may be asked, and what of it can be done."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from omni.streaming.endpoints.chat_messages import Message
from omni.streaming.endpoints.voices import VoiceName
from omni.streaming.fields import FunctionName, Strict
from omni.streaming.problems import Problem, refused
from omni.streaming.settings import Limits

MOST_STOP_CHARS = 256
SEEDS = 2**62
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
}
"""What cannot be done here, and the values of it that ask for nothing."""


class AudioOut(Strict):
    voice: VoiceName
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Function(Strict):
    """`strict` is accepted; the arguments are the model's own and are not checked against `parameters`."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(default=None, exclude=True)


class Tool(Strict):
    type: Literal["function"]
    function: Function


def _strings(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


Stop: TypeAlias = Annotated[list[str], BeforeValidator(_strings, json_schema_input_type=str | list[str])]


class ChatRequest(Strict):
    """What OpenAI's clients send, `top_k` and `repetition_penalty` besides."""

    model: str
    messages: list[Message]
    modalities: list[Literal["text", "audio"]] | None = None
    audio: AudioOut | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None

    user: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None

    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    response_format: Any = None
    parallel_tool_calls: Any = None
    function_call: Any = None
    functions: Any = None
    verbosity: Any = None
    reasoning_effort: Any = None
    prediction: Any = None
    moderation: Any = None
    web_search_options: Any = None


def check(asked: ChatRequest, limits: Limits) -> None:
    """Problem where a request goes beyond the limits, contradicts itself, or asks for what cannot be done."""
    for name, neutral in NEUTRAL.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            raise Problem(f"{name} is not supported here; leave it out", param=name, code="unsupported_parameter")
    _check_range("n", asked.n, limits.choices)
    _check_range("max_tokens", asked.max_tokens, limits.tokens)
    _check_range("max_completion_tokens", asked.max_completion_tokens, limits.tokens)
    if asked.max_tokens and asked.max_completion_tokens not in (None, asked.max_tokens):
        raise refused("max_tokens", "differs from max_completion_tokens; give one of them")
    stop = asked.stop or []
    if len(stop) > limits.stops or not all(1 <= len(s) <= MOST_STOP_CHARS for s in stop):
        raise refused("stop", f"give at most {limits.stops} strings of 1 to {MOST_STOP_CHARS} characters")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise refused("top_logprobs", "needs logprobs: true")
    if asked.stream_options and not asked.stream:
        raise refused("stream_options", "needs stream: true")
    _check_audio(asked)
    _check_tools(asked, limits)


def _check_audio(asked: ChatRequest) -> None:
    modalities = asked.modalities if asked.modalities is not None else ["text"]
    if "text" not in modalities or len(set(modalities)) != len(modalities):
        raise refused("modalities", 'give ["text"] or ["text", "audio"]')
    if "audio" in modalities and not asked.audio:
        raise Problem("audio is missing: name a voice and a format", param="audio", code="missing_required_parameter")
    if asked.audio and "audio" not in modalities:
        raise refused("audio", 'needs modalities: ["text", "audio"]')


def _check_tools(asked: ChatRequest, limits: Limits) -> None:
    tools = asked.tools or []
    if len(tools) > limits.tools:
        raise refused("tools", f"there are {len(tools)}; {limits.tools} are allowed")
    if len(json.dumps([tool.model_dump() for tool in tools], ensure_ascii=False).encode()) > limits.tools_bytes:
        raise refused("tools", f"they are longer than {limits.tools_bytes} bytes; shorten them")
    if len({tool.function.name for tool in tools}) != len(tools):
        raise refused("tools", "two of them have the same name")
    if asked.tool_choice not in (None, "none", "auto"):
        raise refused("tool_choice", 'this model cannot be made to call a tool; give "auto" or "none"')
    if asked.tool_choice == "auto" and not tools:
        raise refused("tool_choice", "needs tools")
    if tools and asked.audio and asked.tool_choice != "none":
        raise refused("tools", "a spoken answer cannot call tools: it would speak the call; ask for text alone")


def _check_range(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise refused(name, f"give a whole number from 1 to {most}")


def options_of(asked: ChatRequest, limits: Limits) -> dict[str, Any]:
    """The fields of `omni.Options` that a request sets; the others stay as the model was released with."""
    options: dict[str, Any] = {"max_tokens": asked.max_completion_tokens or asked.max_tokens or limits.tokens}
    if asked.logprobs:
        options["logprobs"] = asked.top_logprobs or 0
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "stop"):
        if getattr(asked, name) is not None:
            options[name] = getattr(asked, name)
    return options


def tools_of(asked: ChatRequest) -> list[dict[str, Any]]:
    """Functions as the model is told of them."""
    if asked.tool_choice == "none":
        return []
    return [tool.model_dump(exclude_none=True) for tool in asked.tools or []]
