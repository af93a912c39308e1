"""A byte-level tokenizer with a few merges, in both of the published file forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from omni.prompt.tokenizer import BYTE_OF, WORDS

MERGED = [
    "user",
    "system",
    "assistant",
    "You",
    " are",
    " hello",
    "hello",
    " the",
    "'s",
    "'ll",
    "é",
    "你好",
    " é",
    "，你",
    "  ",
    "\n\n",
]
NAMES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>",
    "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<tool_call>", "</tool_call>",
]  # fmt: skip

QWEN3 = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
"""All added tokens of Qwen3, in the order of their ids; Qwen2.5 has those before `<tool_response>`."""
QWEN2_5 = QWEN3[: QWEN3.index("<tool_response>")]
WORDS_AMONG = {*QWEN3[QWEN3.index("<tool_call>") :]}
"""Those that are no control tokens."""


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """256 bytes, then every left part of the merged words."""
    letter = {byte: char for char, byte in BYTE_OF.items()}
    vocab = {letter[byte]: byte for byte in range(256)}
    merges = []
    for word in MERGED:
        letters = [letter[byte] for byte in word.encode()]
        for i in range(1, len(letters)):
            pair = ("".join(letters[:i]), letters[i])
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
                merges.append(pair)
    return vocab, merges


def specials(names: Sequence[str] = NAMES) -> dict[str, int]:
    first = len(vocabulary()[0])  # the library gives added tokens the next ids, whatever their file says
    return {name: first + i for i, name in enumerate(names)}


def added(names: Sequence[str] = NAMES) -> list[dict[str, object]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": id, "content": name, "special": name not in WORDS_AMONG, **flags} for name, id in specials(names).items()]


def write_parts(folder: Path) -> Path:
    """vocab.json, merges.txt, added_tokens.json."""
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "added_tokens.json").write_text(json.dumps(specials()))
    return folder


def write_one(folder: Path, words: str = WORDS, names: Sequence[str] = NAMES, **config: object) -> Path:
    """tokenizer.json, and a tokenizer_config.json that transformers reads."""
    vocab, merges = vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = added(names)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    head: Mapping[str, object] = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**head, **config}))
    return folder


def library(folder: Path) -> Tokenizer:
    """The tokenizers library's own reading of `write_one`'s folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
