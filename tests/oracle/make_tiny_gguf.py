"""Tiny GGUF files by the `gguf` package: a tiny checkpoint's tensors in any form, and the floats that they mean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

from tests.oracle.files import write_json

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
MERGED = "on"
"""A word of two letters: the tiny tokenizer has none, and a GGUF without merges is damaged."""
SPREAD = {"Q4_K": 32 * 4.6, "Q5_K": 32 * 9.2, "Q6_K": 74 * 18.5}
"""Of values made of random bytes, at a scale of one: what the package cannot quantise."""


def make(folder: Path, out: Path, form: str, **metadata: Any) -> Path:
    """Write `model.gguf` into `out`, of a text checkpoint's folder, and a folder `plain` of the floats that it means.

    Args:
        form: of matrices; vectors are F32.
        metadata: keys that are other than they would be, with `__` for dots; None leaves one out.
    """
    tree = json.loads((folder / "config.json").read_text())
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"] |= {"vocab": words["model"]["vocab"] | {MERGED: tree["vocab_size"] - 9}, "merges": [list(MERGED)]}
    said = _metadata(folder, tree, words) | {key.replace("__", "."): value for key, value in metadata.items()}
    writer = gguf.GGUFWriter(out / "model.gguf", said.pop("general.architecture", tree["model_type"]))
    for key, value in said.items():
        if value is not None:
            _add(writer, key, value)
    plain: dict[str, torch.Tensor] = {}
    random = np.random.default_rng(0)
    for name, tensor in sorted(_tensors(folder).items()):
        given = tensor.float().numpy()
        kind = gguf.GGMLQuantizationType[form if given.ndim > 1 else "F32"]
        blocks = _random(kind, given, random) if kind.name in SPREAD else quantize(given, kind)
        writer.add_tensor(_name(name), blocks, raw_dtype=kind)
        plain[name] = torch.from_numpy(np.ascontiguousarray(dequantize(blocks, kind)))
    shutil.copytree(folder, out / "plain", ignore=shutil.ignore_patterns("*.safetensors*"))
    write_json(out / "plain" / "tokenizer.json", words)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_json(out / "plain" / "config.json", tree | {"tie_word_embeddings": "lm_head.weight" not in plain})
    save_file(plain, out / "plain" / "model.safetensors")
    return out / "model.gguf"


def _tensors(folder: Path) -> Mapping[str, torch.Tensor]:
    return {name: x for file in folder.glob("*.safetensors") for name, x in load_file(file).items()}


def _name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{NAMES[module]}.{leaf}"
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest]}.{leaf}"


def _random(kind: Any, like: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Blocks of random bytes, whose values are spread as those that they take the place of."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (like.size // values, size), np.uint8)
    scale = like.std() / SPREAD[kind.name]
    if kind.name == "Q6_K":
        blocks[:, -2:] = np.array([scale], "<f2").view(np.uint8)
    else:  # scale, and scale of what is taken away again: the middle
        blocks[:, :4] = np.array([scale, scale * (7.5 if kind.name == "Q4_K" else 15.5)], "<f2").view(np.uint8)
    return blocks.reshape(len(like), -1)


def _metadata(folder: Path, tree: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    kind, rope = tree["model_type"], tree.get("rope_parameters") or tree.get("rope_scaling") or {}
    sizes = {
        "block_count": tree["num_hidden_layers"], "context_length": tree["max_position_embeddings"],
        "embedding_length": tree["hidden_size"], "feed_forward_length": tree["intermediate_size"],
        "attention.head_count": tree["num_attention_heads"], "attention.head_count_kv": tree["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": tree["rms_norm_eps"],
        "rope.freq_base": float(rope.get("rope_theta") or tree["rope_theta"]),
    }  # fmt: skip
    if "head_dim" in tree:
        sizes |= {"attention.key_length": tree["head_dim"], "attention.value_length": tree["head_dim"]}
    if "factor" in rope:
        sizes |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"]}
        sizes["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    tokens = {id: (token, 1) for token, id in data["model"]["vocab"].items()}
    tokens |= {item["id"]: (item["content"], 3 if item["special"] else 4) for item in data["added_tokens"]}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = folder / "chat_template.jinja"
    listed = [tokens.get(id, (f"[PAD{id}]", 5)) for id in range(tree["vocab_size"])]
    return {f"{kind}.{key}": value for key, value in sizes.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [token for token, _ in listed],
        "tokenizer.ggml.token_type": [kind for _, kind in listed],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in data["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tree["eos_token_id"],
        "tokenizer.ggml.padding_token_id": tree["bos_token_id"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template.read_text() if template.exists() else config["chat_template"],
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
