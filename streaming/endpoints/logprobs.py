"""How likely a token was, as OpenAI tells it."""

from __future__ import annotations

from typing import Any

from omni.events import TokenLogprob

LEAST = -9999.0
"""Stands for no chance at all, which JSON has no number for."""


def told_logprob(token: TokenLogprob) -> dict[str, Any]:
    """Of a token, with the likeliest at its place."""
    return {**_told(token.token, token.logprob), "top_logprobs": [_told(*other) for other in token.top]}


def _told(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "bytes": list(token), "logprob": max(logprob, LEAST)}
