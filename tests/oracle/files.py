"""What every tiny checkpoint is written with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from omni.prompt.tokenizer import WORDS

OFFSET = 151643 - 256
"""What official text ids are less here, so that 256 bytes and the special tokens fit few rows."""


def token(official: int) -> int:
    """The id that stands here for an official text id."""
    return official - OFFSET


def generator(key: str) -> torch.Generator:
    """Draws that depend on a name alone, so that a change in one leaves the others as they were."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))


def write_json(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_shards(tensors: Mapping[str, Tensor], folder: Path, count: int) -> None:
    """Several files, and an index whose total is wrong, as in published checkpoints."""
    names = list(tensors)
    where: dict[str, str] = {}
    for i in range(count):
        shard = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = names[i * len(names) // count : (i + 1) * len(names) // count]
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(part, shard)
    total = sum(x.nbytes for x in tensors.values())
    index = {"metadata": {"total_size": total + 3850592}, "weight_map": where}
    write_json(folder / "model.safetensors.index.json", index)


def save_tokenizer(folder: Path, specials: Sequence[str], words: Sequence[str] = ()) -> None:
    """Qwen2's byte-level tokenizer without merges: 256 bytes in their own order, then the special tokens.

    words: those of them that show in text.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the others are shown as characters from 256 on
    hidden = iter(range(256, 512))
    vocab = {chr(b if b in printable else next(hidden)): b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for name in specials:
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=name not in words)])
    tokenizer.save(str(folder / "tokenizer.json"))
