"""Qwen3, dense (Qwen3 technical report, section 2): heads of a size of their own, whose queries and keys are normed."""

from __future__ import annotations

from omni.families.family import Family
from omni.families.text import build, clock, layout, read_text
from omni.loading.json import Node
from omni.models.config import ModelConfig

HEAD_DIM = 128
"""Where the config has no `head_dim`, as in transformers."""


def read(c: Node) -> ModelConfig:
    bias = bool(c.get("attention_bias", False))
    return read_text(c, qkv_bias=bias, o_bias=bias, qk_norm=True, head_dim=HEAD_DIM)


FAMILY = Family("qwen3", read, layout, build, clock, hermes=True)
