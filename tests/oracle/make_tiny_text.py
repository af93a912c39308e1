"""Tiny text checkpoints with random weights, in the layout in which those of their families are published.

What may differ inside a family does: tied heads with and without a tensor in the files, heads whose size is not a share of
the rows, YaRN, the words of transformers 4 and 5. transformers says how the tensors are named and shaped. Special tokens
have small rows, so that text runs to the limit it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from tests.oracle.files import generator, save_shards, save_tokenizer, token, write_json

VOCAB = 512
SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
WORDS = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
"""Official ids 151657 and on; they show in text. Those from <tool_response> on are Qwen3's."""
TEMPLATE = """\
{%- if tools -%}
    {{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson ~ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
    {{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{%- endif -%}
"""
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Variant:
    """Attributes:
    facts: keys of `config.json` that differ from `_tree`.
    keeps_head: a tied head is in the files all the same.
    modern: the config is written in the words of transformers 5.
    """

    family: str
    facts: dict[str, Any] = field(default_factory=dict)
    keeps_head: bool = False
    modern: bool = False


VARIANTS: dict[str, Variant] = {
    "qwen2": Variant("qwen2", {"tie_word_embeddings": True}),
    # a key head for every head, as in Qwen1.5
    "qwen2-untied": Variant("qwen2", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}, modern=True),
    "qwen2-yarn": Variant("qwen2", {"rope_scaling": YARN | {"type": "yarn"}, "max_position_embeddings": 64}),
    "qwen3": Variant("qwen3", {"tie_word_embeddings": True, "head_dim": 16}, keeps_head=True),
    "qwen3-wide": Variant("qwen3", {"head_dim": 32, "num_hidden_layers": 4, "rope_theta": 1e4}, modern=True),
    "qwen3-yarn": Variant("qwen3", {"head_dim": 24, "rope_scaling": YARN | {"rope_type": "yarn"}}, modern=True),
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of `VARIANTS[name]` into `folder` and return it; equal seeds give equal files."""
    return write(VARIANTS[name], folder, seed)


def write(variant: Variant, folder: Path, seed: int = 0) -> Path:
    """As `make`, of a variant that has no name."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = _tree(variant)
    config = CONFIG_MAPPING[variant.family].from_dict(dict(tree))
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    save_shards(dict(_tensors(model.state_dict(), variant, seed)), folder, 2)
    write_json(folder / "config.json", _modern(tree) if variant.modern else tree)
    stops = {"bos_token_id": token(151643), "pad_token_id": token(151643), "eos_token_id": [token(151645), token(151643)]}
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    write_json(folder / "generation_config.json", stops | sampling)
    thinks = variant.family == "qwen3"
    words = WORDS if thinks else WORDS[:8]
    save_tokenizer(folder, SPECIALS + words, words)
    plain = {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 131072,
    }  # fmt: skip
    if thinks:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    write_json(folder / "tokenizer_config.json", plain if thinks else plain | {"chat_template": TEMPLATE})
    return folder


def _tree(variant: Variant) -> dict[str, Any]:
    """`config.json` in published words, with keys that mean nothing to a reader of text."""
    qwen2 = variant.family == "qwen2"
    common = {
        "architectures": [f"{variant.family.capitalize()}ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
        "bos_token_id": token(151643), "eos_token_id": token(151645), "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 1024, "max_window_layers": 2, "model_type": variant.family,
        "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 512, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB,
    }  # fmt: skip
    own = {"use_mrope": False} if qwen2 else {"attention_bias": False, "rope_scaling": None, "sliding_window": None}
    return common | own | variant.facts


def _modern(tree: dict[str, Any]) -> dict[str, Any]:
    tree = dict(tree)
    rope = {"rope_theta": tree.pop("rope_theta"), "rope_type": "default"} | (tree.pop("rope_scaling", None) or {})
    layers = ["full_attention"] * tree["num_hidden_layers"]
    return tree | {"rope_parameters": rope, "dtype": tree.pop("torch_dtype"), "layer_types": layers}


def _tensors(shapes: dict[str, Tensor], variant: Variant, seed: int) -> Iterator[tuple[str, Tensor]]:
    tied = variant.facts.get("tie_word_embeddings", False)
    for name, like in shapes.items():
        if name == "lm_head.weight" and tied and not variant.keeps_head:
            continue
        key = "model.embed_tokens.weight" if name == "lm_head.weight" and tied else name
        x = torch.randn(like.shape, generator=generator(f"{seed}/{key}"))
        if x.ndim == 1:
            x = 1 + 0.2 * x if name.endswith("weight") else 0.3 * x
        elif name.startswith(("model.embed_tokens", "lm_head")):
            x *= 0.15 if tied or name != "lm_head.weight" else 0.3  # a tied head is not to repeat the last id for ever
            x[256:] *= 0.2
        else:
            x *= 2 / math.sqrt(like.shape[1])
        yield name, x.bfloat16()
