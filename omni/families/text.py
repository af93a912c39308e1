"""What families share: how their text decoders are stated, and the whole of those that only read and write."""

from __future__ import annotations

import math
from typing import Any

import torch

from omni.errors import CheckpointError
from omni.loading.bounds import check_number
from omni.loading.checkpoint import Layout
from omni.loading.json import Node, ids_of
from omni.models.config import DecoderConfig, ModelConfig, ThinkerConfig, Yarn
from omni.models.decoder import STACKS
from omni.models.model import OmniModel
from omni.models.thinker import Thinker
from omni.prompt.positions import Clock

LAYOUT = Layout(
    prefixes=(
        ("thinker.embed_tokens.", "model.embed_tokens."),
        ("thinker.decoder.", "model."),
        ("thinker.lm_head.", "lm_head."),
    ),
    stacks=STACKS,
)
PLAIN, SECTIONED = ("default", "yarn"), ("default", "mrope")
"""Kinds of rotary positions that are read, for one position axis and for three."""


def read_text(c: Node, *, head_dim: int | None = None, **facts: bool) -> ModelConfig:
    """A model of text alone; arguments as for `read_decoder`."""
    thinker = ThinkerConfig(
        vocab_size=c.vocab_size,
        tie_word_embeddings=bool(c.get("tie_word_embeddings", False)),
        eos_ids=ids_of(c.get("eos_token_id", [])),
        decoder=read_decoder(c, head_dim=head_dim, **facts),
        audio=None,
        vision=None,
        media=None,
    )
    return ModelConfig(thinker, None, None, None, None, stored_dtype(c))


def stored_dtype(c: Node) -> str:
    """As torch names it."""
    return str(c.get("dtype", c.get("torch_dtype", "float32")))


def read_decoder(
    c: Node,
    *,
    qkv_bias: bool,
    o_bias: bool = False,
    qk_norm: bool = False,
    head_dim: int | None = None,
    sectioned: bool = False,
) -> DecoderConfig:
    """A decoder's keys, in the words of transformers 4 or 5.

    Args:
        head_dim: where no key says; a head's share of the rows when None.
        sectioned: positions have three axes, and `mrope_section` says which turns what.

    CheckpointError for windows, other activations than silu, and kinds of rotary positions that are not read.
    """
    rope = c.part("rope_parameters" if "rope_parameters" in c else "rope_scaling")
    kind, kinds = rope.get("rope_type", rope.get("type", "default")), SECTIONED if sectioned else PLAIN
    if kind not in kinds:
        known = " and ".join(map(repr, kinds))
        raise CheckpointError(f"rope type {kind!r} is not supported, {known} are; take a checkpoint with one of these")
    _check_layers(c)
    yarn = _yarn(rope, c) if kind == "yarn" else None
    heads, longest = int(c.num_attention_heads), c.max_position_embeddings
    width = c.get("head_dim", head_dim or int(c.hidden_size) // heads)
    check_number("head_dim", width)  # a list is made of it
    return DecoderConfig(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_layers=c.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=width,
        rms_norm_eps=c.rms_norm_eps,
        rope_theta=float(rope.get("rope_theta", None) or c.rope_theta),
        axes=_sections(rope.mrope_section, width) if sectioned else (0,) * (width // 2),
        rope_scaling=yarn,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        qk_norm=qk_norm,
        max_positions=max(longest, int(yarn.factor * yarn.original_positions)) if yarn else longest,
    )


def _check_layers(c: Node) -> None:
    """Raise CheckpointError where layers compute something else than ours would, from the same weights."""
    if c.get("use_sliding_window", False) or "sliding_attention" in c.get("layer_types", ()):
        raise CheckpointError(
            "config.json asks for sliding windows (use_sliding_window or layer_types), which are not supported; take a "
            "checkpoint whose layers attend to all that came before"
        )
    if (activation := c.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"hidden_act {activation!r} is not supported, 'silu' is; take a checkpoint with it")


def _sections(sizes: Any, head_dim: int) -> tuple[int, ...]:
    """Axes of frequencies that lie together by axis: so many for time, height and width, any of which may be none."""
    if sum(sizes) != head_dim // 2 or min(sizes) < 0:
        raise CheckpointError(f"mrope_section {tuple(sizes)} does not sum to half of head_dim {head_dim}")
    return tuple(axis for axis, size in enumerate(sizes) for _ in range(size))


def _yarn(rope: Node, c: Node) -> Yarn:
    trained = rope.get("original_max_position_embeddings", None)
    factor = float(rope.factor if "factor" in rope or trained is None else c.max_position_embeddings / trained)
    trained = c.max_position_embeddings if trained is None else trained
    gain = rope.get("attention_factor", None)
    if gain is None:
        gain = _gain(factor, 1.0)
        if rope.get("mscale", 0) and rope.get("mscale_all_dim", 0):
            gain = _gain(factor, rope.mscale) / _gain(factor, rope.mscale_all_dim)
    return Yarn(
        factor=factor,
        original_positions=trained,
        fast=rope.get("beta_fast", 0) or 32,
        slow=rope.get("beta_slow", 0) or 1,
        truncate=bool(rope.get("truncate", True)),
        attention_factor=gain,
    )


def _gain(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def layout(config: ModelConfig) -> Layout:
    return LAYOUT


def build(config: ModelConfig) -> OmniModel:
    with torch.device("meta"):
        return OmniModel(config, Thinker(config.thinker)).eval().requires_grad_(False)


def clock(config: ModelConfig) -> Clock:
    return Clock(0, 0)  # of media, and there are none
