"""Qwen1.5, Qwen2 and Qwen2.5 with Coder, Math and QwQ (Qwen2 technical report, section 2): q, k and v have biases."""

from __future__ import annotations

from omni.families.family import Family
from omni.families.text import build, clock, layout, read_text
from omni.loading.json import Node
from omni.models.config import ModelConfig


def read(c: Node) -> ModelConfig:
    return read_text(c, qkv_bias=True)


FAMILY = Family("qwen2", read, layout, build, clock)
