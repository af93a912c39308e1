"""How fast each frequency of a decoder's rotary positions turns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni.models.config import DecoderConfig, Yarn


def frequencies(config: DecoderConfig) -> Tensor:
    """Angles that a position is worth, float32 `[D / 2]`, rounded as transformers rounds them."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    waves = config.rope_theta**steps
    yarn = config.rope_scaling
    if yarn is None:
        return 1.0 / waves
    kept = 1 - _stretched(yarn, config)
    return 1.0 / (yarn.factor * waves) * (1 - kept) + 1.0 / waves * kept


def _stretched(yarn: Yarn, config: DecoderConfig) -> Tensor:
    """How much of each frequency is stretched, from 0 for those that turn often within a text to 1, `[D / 2]`."""
    low, high = (_place(turns, yarn, config) for turns in (yarn.fast, yarn.slow))
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    ramp = torch.arange(config.head_dim // 2, dtype=torch.float32, device="cpu") - low
    return (ramp / (high - low or 0.001)).clamp(0, 1)


def _place(turns: float, yarn: Yarn, config: DecoderConfig) -> float:
    """Where the frequency lies that turns so many times within a text as long as those in training."""
    wave = yarn.original_positions / (turns * 2 * math.pi)
    return config.head_dim * math.log(wave) / (2 * math.log(config.rope_theta))
