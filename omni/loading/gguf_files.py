"""What a GGUF file says, as the JSON files that a checkpoint's folder holds: `config.json`, `tokenizer.json` and so on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omni.errors import CheckpointError
from omni.loading.gguf import Header, read_header

ARCHITECTURES = ("qwen2", "qwen3")
"""That name the family of the same name; llama.cpp stores their rows in the published order."""
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
"""Kinds of tokens; an unused one pads the vocabulary, and is never written."""
ENDS = ("<|im_end|>", "<|endoftext|>")
"""That end an answer whatever the file says, as in llama.cpp."""
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
"""Their modules -> the published ones; those of a layer follow `blk.N.`."""
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
YARN = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
OTHER = ("attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size", "rope.scaling.type")
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "penalty_repeat": "repetition_penalty"}


def published_name(name: str) -> str:
    """What a tensor is called in a published checkpoint; itself where there is none like it."""
    module, _, leaf = name.rpartition(".")
    words = module.split(".")
    if words[0] == "blk" and len(words) == 3 and words[1].isdecimal() and words[2] in TENSORS:
        return f"model.layers.{words[1]}.{TENSORS[words[2]]}.{leaf}"
    return f"{TENSORS[module]}.{leaf}" if module in TENSORS else name


def files_in(path: Path) -> Mapping[str, Callable[[], dict[str, Any]]]:
    """By name, what makes each file's JSON of a GGUF; CheckpointError where it is damaged or no model that omni reads."""
    header = read_header(path)
    makers: dict[str, Callable[[Header], dict[str, Any]]] = {
        "config.json": _config,
        "generation_config.json": _generation,
        "tokenizer.json": _tokenizer,
        "tokenizer_config.json": _tokenizer_config,
    }
    return {name: partial(make, header) for name, make in makers.items()}


def _config(header: Header) -> dict[str, Any]:
    said = header.metadata
    kind = said.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"the GGUF says architecture {kind!r}; omni reads {' and '.join(ARCHITECTURES)}: take one of these"
        )
    if said.get("split.count", 1) > 1:
        raise CheckpointError("the GGUF is a part of several; join them by `llama-gguf-split --merge` first")
    own = {key.removeprefix(f"{kind}."): value for key, value in said.items() if key.startswith(f"{kind}.")}
    config = {"model_type": kind, "architectures": [f"Qwen{kind[-1]}ForCausalLM"]}
    config |= {SIZES[key]: _number(key, value) for key, value in own.items() if key in SIZES}
    heads = config.get("num_attention_heads", 0)
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rope_theta", 10000.0)  # as in llama.cpp
    width = own.get("attention.key_length", config.get("hidden_size", 0) // heads if heads else 0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, width) != width:
            raise CheckpointError(f"the GGUF says {key} {own[key]} for heads of {width}, and omni reads only equal ones")
    config["head_dim"] = width
    config["rope_scaling"] = _rope(own)
    if unknown := [key for key in own if key not in SIZES and key not in OTHER and not key.startswith("rope.scaling.")]:
        raise CheckpointError(
            f"the GGUF says {kind}.{unknown[0]} ({str(own[unknown[0]])[:60]}), which omni does not know and could "
            "compute wrongly; take another GGUF, or the published checkpoint"
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("the GGUF holds no token_embd.weight; fetch it again")
    config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    config["attention_bias"] = any(name.endswith(("attn_q.bias", "attn_output.bias")) for name in header.tensors)
    config["eos_token_id"] = _ends(said)
    forms = {tensor.form.name for tensor in header.tensors.values() if len(tensor.shape) > 1}
    config["torch_dtype"] = (
        {"F32": "float32", "F16": "float16"}.get(forms.pop(), "bfloat16") if len(forms) == 1 else "bfloat16"
    )
    return config


def _rope(own: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = own.get("rope.scaling.type", "none")
    given = {key.removeprefix("rope.scaling."): value for key, value in own.items() if key.startswith("rope.scaling.")}
    given.pop("type", None)
    if kind == "none" and not given.keys() - {"finetuned"}:
        return None
    # llama.cpp's yarn is the published one where these two are as they are without a word
    plain = given.pop("yarn_ext_factor", 1.0) == 1.0 and given.pop("yarn_log_multiplier", 0.0) == 0.0
    gain = given.pop("yarn_attn_factor", given.pop("attn_factor", 1.0))
    given.pop("finetuned", None)
    if kind != "yarn" or not plain or gain != 1.0 or given.keys() - YARN.keys():
        told = ", ".join(f"{key} {value}" for key, value in own.items() if key.startswith("rope.scaling."))
        raise CheckpointError(f"the GGUF says {told[:300]}, which omni does not compute; it reads yarn as published")
    return {"rope_type": "yarn"} | {YARN[key]: value for key, value in given.items()}


def _number(key: str, value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"the GGUF says {key} {str(value)[:60]}, and omni reads one number for all layers")
    return value


def _ends(said: Mapping[str, Any]) -> list[int]:
    ids = [said[key] for name in ("eos", "eot", "eom") if (key := f"tokenizer.ggml.{name}_token_id") in said]
    kinds = _kinds(said)
    ids += [id for id, token in enumerate(_tokens(said)) if token in ENDS and kinds[id] == CONTROL]
    return list(dict.fromkeys(ids))


def _generation(header: Header) -> dict[str, Any]:
    said = header.metadata
    given = {theirs: said[key] for ours, theirs in SAMPLING.items() if (key := f"general.sampling.{ours}") in said}
    return {"eos_token_id": _ends(said), "do_sample": given.get("temperature", 0) > 0} | given


def _tokens(said: Mapping[str, Any]) -> list[str]:
    tokens = said.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise CheckpointError("the GGUF holds no tokenizer.ggml.tokens; fetch it again")
    return tokens


def _kinds(said: Mapping[str, Any]) -> tuple[int, ...]:
    tokens, kinds = _tokens(said), said.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, tuple) or len(kinds) != len(tokens):
        raise CheckpointError("the GGUF holds no tokenizer.ggml.token_type for every token; fetch it again")
    if strange := set(kinds) - {NORMAL, CONTROL, USER, UNUSED}:
        raise CheckpointError(
            f"the GGUF holds tokens of kind {strange.pop()}, which a byte-level BPE has not; fetch it again"
        )
    return kinds


def _tokenizer(header: Header) -> dict[str, Any]:
    """Without `pre_tokenizer` and `normalizer`: which they are is told by one word, which is checked here."""
    said = header.metadata
    model, cut = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre")
    if (model, cut) != ("gpt2", "qwen2") or said.get("tokenizer.ggml.add_bos_token", False):
        raise CheckpointError(
            f"the GGUF has a tokenizer of model {str(model)[:40]!r} and pre {str(cut)[:40]!r}; omni reads 'gpt2' with "
            "'qwen2', and none that puts a token before every text: take another GGUF, or the published checkpoint"
        )
    merges = said.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or any(merge.count(" ") != 1 for merge in merges):
        raise CheckpointError("the GGUF holds no tokenizer.ggml.merges, or one that is no pair; fetch it again")
    tokens, kinds = _tokens(said), _kinds(said)
    vocab = {token: id for id, token in enumerate(tokens) if kinds[id] == NORMAL}
    added = [
        {"id": id, "content": token, "special": kinds[id] == CONTROL}
        for id, token in enumerate(tokens)
        if kinds[id] in (CONTROL, USER)
    ]
    if len(vocab) != kinds.count(NORMAL) or len({item["content"] for item in added}) != len(added):
        raise CheckpointError("the GGUF holds the same token twice; fetch it again")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return {"model": {"type": "BPE", "vocab": vocab, "merges": pairs}, "added_tokens": added}


def _tokenizer_config(header: Header) -> dict[str, Any]:
    said, tokens = header.metadata, _tokens(header.metadata)
    found: dict[str, Any] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        id = said.get(f"tokenizer.ggml.{theirs}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            found[f"{ours}_token"] = tokens[id]
    return found | {"chat_template": said.get("tokenizer.chat_template")}
