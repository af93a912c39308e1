"""What POST /v1/chat/completions may be asked, and what of it can be done."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from omni.streaming.endpoints.chat_messages import Frames, Message
from omni.streaming.endpoints.voices import VoiceName
from omni.streaming.fields import Body, Each, Fields, FunctionName
from omni.streaming.problems import Problem, refused
from omni.streaming.settings import Limits
from omni.streaming.tools import CLOSE

MOST_STOP_CHARS = 256
MOST_MESSAGES = 4096
"""That are looked at; of how many an answer may be given to, the server's limits tell."""
SEEDS = 2**62
DRAWN_SEEDS = 2**53
"""Larger whole numbers are not exact in JavaScript."""


class AudioOut(Fields):
    """voice: the model's usual one when None."""

    voice: VoiceName | None = None
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class StreamOptions(Fields):
    taken = frozenset({"include_obfuscation", "continuous_usage_stats", "include_stop_str_in_output"})
    include_usage: bool | None = None


class Function(Fields):
    """`strict` is accepted; the arguments are the model's own and are not checked against `parameters`."""

    taken = frozenset({"strict"})
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Fields):
    taken = frozenset({"cache_control", "strict"})
    type: Literal["function"]
    function: Function


class Named(Fields):
    name: str


class NamedTool(Fields):
    type: Literal["function"]
    function: Named


class AllowedTools(Fields):
    mode: Literal["auto", "required"] = "auto"
    tools: Each[NamedTool]


class OnlyTools(Fields):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class Mode(Fields):
    type: Literal["auto", "none", "required"]


def _mode(choice: object) -> object:
    return {"type": choice} if isinstance(choice, str) else choice


ToolChoice: TypeAlias = Annotated[
    Annotated[Mode | NamedTool | OnlyTools, Field(discriminator="type")],
    BeforeValidator(_mode, json_schema_input_type=Literal["auto", "none", "required"] | NamedTool | OnlyTools),
]


def _strings(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


Stop: TypeAlias = Annotated[Each[str], BeforeValidator(_strings, json_schema_input_type=str | list[str])]


class ChatRequest(Body):
    """What OpenAI's clients send, and `top_k`, `repetition_penalty`, `chat_template_kwargs` and `mm_processor_kwargs`.

    Attributes:
        cache_salt: of those who may find in the cache what was read for this request, besides the key.
    """

    taken = frozenset(
        {
            *("user", "store", "metadata", "service_tier", "safety_identifier"),
            *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "cache_control"),
            *("priority", "request_id", "keep_alive", "include_reasoning", "return_token_ids", "transforms", "provider"),
        }
    )
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        "response_format": ({"type": "text"},),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "verbosity": ("medium",),
        "reasoning_effort": ("none",),
        "reasoning": ({},),
        "thinking": ({"type": "disabled"},),
        "prediction": (),
        "moderation": (),
        "web_search_options": (),
        "plugins": ([],),
        "min_p": (0,),
        "top_a": (0,),
        "typical_p": (1,),
        "length_penalty": (1,),
        "min_tokens": (0,),
        "ignore_eos": (False,),
        "stop_token_ids": ([],),
        "bad_words": ([],),
        "allowed_token_ids": (),
        "best_of": (1,),
        "use_beam_search": (False,),
        "echo": (False,),
        "suffix": ("",),
        "skip_special_tokens": (True,),
        "include_stop_str_in_output": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "chat_template": (),
        "documents": ([],),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
        "grammar": ("",),
        "json_schema": (),
        "enable_thinking": (),
        "thinking_budget": (),
        "prompt_logprobs": (),
    }

    model: str
    messages: Annotated[Each[Message], Field(max_length=MOST_MESSAGES)]
    modalities: Each[Literal["text", "audio"]] | None = None
    audio: AudioOut | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-1, lt=SEEDS)] | None = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Each[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    mm_processor_kwargs: Frames | None = None


def check(asked: ChatRequest, limits: Limits) -> None:
    """Problem where a request goes beyond the limits, contradicts itself, or asks for what cannot be done."""
    _check_range("n", asked.n, limits.choices)
    _check_range("max_tokens", asked.max_tokens, limits.tokens)
    _check_range("max_completion_tokens", asked.max_completion_tokens, limits.tokens)
    if asked.max_tokens and asked.max_completion_tokens not in (None, asked.max_tokens):
        raise refused("max_tokens", "differs from max_completion_tokens; give one of them")
    stop = asked.stop or []
    if len(stop) > limits.stops or not all(1 <= len(s) <= MOST_STOP_CHARS for s in stop):
        raise refused("stop", f"give at most {limits.stops} strings of 1 to {MOST_STOP_CHARS} characters")
    if asked.top_logprobs and not asked.logprobs:
        raise refused("top_logprobs", "needs logprobs: true")
    if asked.stream_options and asked.stream_options.include_usage and not asked.stream:
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
    known = {tool.function.name for tool in tools}
    match asked.tool_choice:
        case Mode(type="required") if not tools:
            raise refused("tool_choice", "needs tools")
        case NamedTool(function=named) if named.name not in known:
            raise refused("tool_choice.function.name", "none of the tools has this name")
        case OnlyTools(allowed_tools=allowed):
            if not allowed.tools or not {tool.function.name for tool in allowed.tools} <= known:
                raise refused("tool_choice.allowed_tools.tools", "give at least one, and only such as are among the tools")


def _check_range(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise refused(name, f"give a whole number from 1 to {most}")


def options_of(asked: ChatRequest, limits: Limits) -> dict[str, Any]:
    """The fields of `omni.Options` that a request sets; the others stay as the model was released with."""
    options: dict[str, Any] = {"max_tokens": asked.max_completion_tokens or asked.max_tokens or limits.tokens}
    if asked.logprobs:
        options["logprobs"] = asked.top_logprobs or 0
    for name in ("temperature", "top_p", "repetition_penalty", "stop"):
        if getattr(asked, name) is not None:
            options[name] = getattr(asked, name)
    if asked.top_k is not None:
        options["top_k"] = max(0, asked.top_k)
    if isinstance(asked.tool_choice, NamedTool) or (tools_of(asked) and asked.parallel_tool_calls is False):
        options["stop"] = [*(asked.stop or ()), CLOSE]
    return options


def tools_of(asked: ChatRequest) -> list[dict[str, Any]]:
    """Functions as the model is told of them."""
    tools = [tool.model_dump(exclude_none=True) for tool in asked.tools or []]
    match asked.tool_choice:
        case Mode(type="none"):
            return []
        case OnlyTools(allowed_tools=allowed):
            names = {tool.function.name for tool in allowed.tools}
            return [tool for tool in tools if tool["function"]["name"] in names]
    return tools


def call_of(asked: ChatRequest) -> str | bool:
    """The function that the answer must call, or whether it must call one, as `Omni.generate` takes it."""
    match asked.tool_choice:
        case NamedTool(function=named):
            return named.name
        case Mode(type="required") | OnlyTools(allowed_tools=AllowedTools(mode="required")):
            return True
    return False


def looking_of(asked: ChatRequest) -> dict[str, Any]:
    """How pictures and clips are looked at that do not say so themselves."""
    return asked.mm_processor_kwargs.model_dump(exclude_none=True) if asked.mm_processor_kwargs else {}


def seed_of(asked: ChatRequest) -> int:
    """Of the first choice; below 0 is as if there were none."""
    return secrets.randbelow(DRAWN_SEEDS) if asked.seed is None or asked.seed < 0 else asked.seed
