"""What an answer took, in the shapes of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from omni.events import Usage

Json: TypeAlias = dict[str, Any]


def chat_usage(choices: Sequence[Usage]) -> Json:
    """Of all choices of a chat; the prompt, which they share, counts once."""
    text, sound = sum(usage.text_tokens for usage in choices), sum(usage.codec_tokens for usage in choices)
    return {
        "prompt_tokens": choices[0].prompt_tokens,
        "completion_tokens": text + sound,
        "total_tokens": choices[0].prompt_tokens + text + sound,
        "prompt_tokens_details": _read(choices[0]),
        "completion_tokens_details": {"audio_tokens": sound, "text_tokens": text, "reasoning_tokens": 0},
    }


def speech_usage(usage: Usage) -> Json:
    """Of a text that was spoken: tokens read, which are the text and what comes before it, and codec ids."""
    return _totals(usage.prompt_tokens + usage.text_tokens, usage.codec_tokens)


def transcription_usage(usage: Usage) -> Json:
    """Of a sound that was written down."""
    heard = {"audio_tokens": usage.audio_tokens, "text_tokens": usage.prompt_tokens - usage.audio_tokens}
    return {"type": "tokens", **_totals(usage.prompt_tokens, usage.text_tokens), "input_token_details": heard}


def response_usage(usage: Usage | None) -> Json:
    """Of a realtime answer. None, where it was broken off and not counted, is told as 0: clients read every field."""
    usage = usage or Usage(0, 0, 0, 0, 0, 0)
    nothing_cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
    return {
        **_totals(usage.prompt_tokens, usage.text_tokens + usage.codec_tokens),
        "input_token_details": {**_read(usage), "cached_tokens": 0, "cached_tokens_details": nothing_cached},
        "output_token_details": {"text_tokens": usage.text_tokens, "audio_tokens": usage.codec_tokens},
    }


def _totals(read: int, made: int) -> Json:
    return {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}


def _read(usage: Usage) -> dict[str, int]:
    """The prompt's tokens by kind; a clip's count as pictures."""
    images = usage.image_tokens + usage.video_tokens
    text = usage.prompt_tokens - usage.audio_tokens - images
    return {"audio_tokens": usage.audio_tokens, "image_tokens": images, "text_tokens": text}
