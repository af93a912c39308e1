"""What doctor plans, and the 3B in its true shapes on disk: loads within weights + 1 GiB, sees a picture and speaks."""

from __future__ import annotations

import gzip
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from omni.cli.doctor import examine
from tests.oracle.files import OFFSET
from tests.oracle.make_tiny_omni import make
from tests.oracle.tiny import tiny

DATA = Path(__file__).parents[2] / "data"
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
SHARD = 5 * 10**9

PROGRAM = """
import json, sys, time
import torch
from omni import Omni
from omni.loading.packing import PackedLinear

def peak():  # of this program alone: getrusage counts its parent's memory too
    status = open("/proc/self/status").read().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024

start = time.perf_counter()
omni = Omni.load(sys.argv[1], dtype="bfloat16", progress=False)
loaded, load_seconds = peak(), time.perf_counter() - start
weights = sum(p.numel() * p.element_size() for p in omni.model.parameters())
weights += sum(w.nbytes for m in omni.model.modules() if isinstance(m, PackedLinear) for w in m.packed)
messages = [{"role": "user", "content": [{"type": "image", "image": sys.argv[2]}, {"type": "text", "text": "What?"}]}]
reply = omni.generate(messages, voice="Chelsie", max_tokens=6, max_audio_seconds=0.48, seed=1)
print(json.dumps({
    "weights": weights, "load_peak": loaded, "peak": peak(), "load_seconds": load_seconds,
    "samples": len(reply.audio), "loudest": float(abs(reply.audio).max()), "text_tokens": reply.usage.text_tokens,
    "image_tokens": reply.usage.image_tokens, "seconds": reply.timings.total, "prefill": reply.timings.prefill,
}))
"""


def write_checkpoint(folder: Path) -> None:
    """Random weights for every tensor of the 3B's manifest, in shards as published."""
    make("7b-like", folder)  # tokenizer, template and voices
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_bytes((DATA / "qwen2_5_omni_3b.config.json").read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["id"] += OFFSET
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    voices = torch.load(folder / "spk_dict.pt", weights_only=True)
    for voice in voices.values():
        voice["bos_token"] += OFFSET
    torch.save(voices, folder / "spk_dict.pt")
    manifest = json.loads(gzip.decompress((DATA / "qwen2_5_omni_3b.manifest.json.gz").read_bytes()))
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    shards = 0
    for i, (name, (dtype, shape)) in enumerate(manifest.items()):
        weight = torch.empty(shape, dtype=DTYPES[dtype])
        shard[name] = weight.fill_(1) if len(shape) == 1 and name.endswith("weight") else weight.normal_(std=0.02)
        if sum(t.nbytes for t in shard.values()) > SHARD or i == len(manifest) - 1:
            file = f"model-{shards}.safetensors"
            save_file(shard, folder / file)
            places |= dict.fromkeys(shard, file)
            shard, shards = {}, shards + 1
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.slow
def test_true_shape(tmp_path: Path) -> None:
    folder = tmp_path / "3b"
    write_checkpoint(folder)
    picture = tmp_path / "picture.png"
    Image.effect_noise((224, 168), 80).convert("RGB").save(picture)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(picture)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout.splitlines()[-1])
    print(facts)
    assert facts["load_peak"] <= facts["weights"] + 2**30
    assert facts["image_tokens"] == 8 * 6
    assert facts["samples"] == 24 * 480
    assert math.isfinite(facts["loudest"])
    assert facts["loudest"] > 0


def test_doctor_plans_for_text() -> None:
    console = Console(width=200, file=io.StringIO())
    assert examine(console, str(tiny("qwen3-wide")), "cpu", "float32")
    told = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]  # a StringIO
    assert "qwen3: reads and writes text; it does not hear, see or speak" in told
    assert "thinker cache, up to 65,536 tokens" in told
    assert not any(word in told for word in ("talker", "vocoder", "rows of media"))
