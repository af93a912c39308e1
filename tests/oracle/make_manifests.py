"""Derive the tensor lists of the published 7B and 3B from their configs, by building transformers' class on meta.

    python -m tests.oracle.make_manifests            write tests/data/*.manifest.json.gz
    python -m tests.oracle.make_manifests --check    say whether they are up to date

A manifest is a JSON object, name -> [dtype, shape], in the order of the names.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

DATA = Path(__file__).parents[1] / "data"
MODELS = ("qwen2_5_omni_7b", "qwen2_5_omni_3b")
# the published 7B index counts one buffer more than the class has parameters; whether the 3B has it too is not known
STRAY = {"qwen2_5_omni_7b": {"token2wav.code2wav_dit_model.rotary_embed.inv_freq": ("F32", [32])}}


def manifest(model: str) -> dict[str, tuple[str, list[int]]]:
    """Names, dtypes and shapes of a published checkpoint: thinker and talker in bfloat16, token2wav in float32."""
    config = Qwen2_5OmniConfig.from_dict(json.loads((DATA / f"{model}.config.json").read_text()))
    with torch.device("meta"):
        tensors = Qwen2_5OmniForConditionalGeneration(config).state_dict()
    found = {
        name: ("F32" if name.startswith("token2wav.") else "BF16", list(tensor.shape)) for name, tensor in tensors.items()
    }
    return dict(sorted((found | STRAY.get(model, {})).items()))


def packed(model: str) -> bytes:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(item)}" for name, item in manifest(model).items())
    return gzip.compress(f"{{\n{lines}\n}}\n".encode(), mtime=0)


def main() -> int:
    stale = 0
    for model in MODELS:
        path, data = DATA / f"{model}.manifest.json.gz", packed(model)
        if "--check" not in sys.argv:
            path.write_bytes(data)
        elif gzip.decompress(path.read_bytes()) != gzip.decompress(data):
            print(f"{path.name} differs from what transformers builds", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
