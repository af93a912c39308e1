"""What a folder must hold to become a model that answers, and speaks."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from omni import Omni
from omni.cli.doctor import examine
from omni.errors import CheckpointError
from tests.oracle.make_tiny_text import make
from tests.oracle.tiny import tiny


def test_a_head_that_is_tied_may_be_in_the_files() -> None:
    without, with_head = (Omni.load(tiny(name), dtype="float32", progress=False) for name in ("qwen2", "qwen3"))
    for omni in (without, with_head):
        assert omni.model.thinker.lm_head.weight is omni.model.thinker.embed_tokens.weight


def test_a_head_that_is_not_tied_must_be_in_the_files(tmp_path: Path) -> None:
    folder = make("qwen2", tmp_path)
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | {"tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings false, and no file in .* holds lm_head\.weight"):
        Omni.load(folder, progress=False)
    console = Console(width=300, file=io.StringIO())
    assert not examine(console, str(folder), "cpu", "float32")
    assert "lm_head.weight" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_a_voice_must_have_a_row(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("odd"), tmp_path / "odd")
    voices = torch.load(folder / "spk_dict.pt", weights_only=True)
    voices["Ethan"]["bos_token"] = 512
    torch.save(voices, folder / "spk_dict.pt")
    with pytest.raises(CheckpointError, match="voice 'Ethan' has id 512, which the model lacks"):
        Omni.load(folder, progress=False)
    assert Omni.load(folder, speech=False, progress=False).voices == {}


def test_an_answer_imports_no_more_than_it_needs() -> None:
    """torch's compiler, sympy and transformers take seconds each; a server and its libraries are for who serves."""
    code = """
import sys
from omni import Omni
omni = Omni.load(device="cpu", progress=False)
omni.generate([{"role": "user", "content": "Where is the square?"}], voice=next(iter(omni.voices)), max_tokens=4)
print(*sorted({name.partition(".")[0] if name != "torch._dynamo" else name for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    dear = {"torch._dynamo", "sympy", "triton", "transformers", "scipy", "fastapi", "uvicorn", "gguf", "huggingface_hub"}
    assert not loaded & dear
