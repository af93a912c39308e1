"""What is written for llama.cpp is what it reads, and it is timed by turns in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from omni.bench import peer, stages
from omni.bench.case import Setting, Sizes
from omni.bench.models import Shape
from omni.bench.timing import Ceilings, Timer
from omni.errors import OptionError
from omni.models.config import ThinkerConfig

STUB = """
import ctypes

class Params: pass

def known(*_): return Params()

__version__ = "9.9"
llama_log_callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
llama_backend_init = llama_log_set = llama_memory_clear = llama_synchronize = lambda *_: None
llama_model_default_params = llama_context_default_params = llama_init_from_model = llama_get_memory = known
llama_batch_get_one = lambda tokens, num: num
llama_memory_seq_rm = lambda *_: True
llama_decode = lambda context, batch: 0

def llama_model_load_from_file(path, params):
    return open(path, "rb").read(4) == b"GGUF"
"""


@pytest.fixture
def small() -> Shape:
    tree = {
        "model_type": "qwen2", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "torch_dtype": "bfloat16", "max_position_embeddings": 1024, "hidden_act": "silu", "eos_token_id": 1,
        "tie_word_embeddings": False,
    }  # fmt: skip
    return Shape("small", tree)


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def decoded(path: Path) -> dict[str, np.ndarray]:
    return {each.name: dequantize(each.data, each.tensor_type) for each in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("form", list(peer.BLOCKS))
def test_what_is_written_is_a_model(form: str, tmp_path: Path, small: Shape) -> None:
    config: ThinkerConfig = replace(small.config.thinker, vocab_size=1000)
    read = peer.write(tmp_path / "m.gguf", config, form)
    tensors = decoded(tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["qwen2.embedding_length"].contents() == config.decoder.hidden_size
    assert len(set(fields["tokenizer.ggml.tokens"].contents())) == config.vocab_size
    assert {name: x.shape for name, x in tensors.items()} == peer._shapes(config)
    for name, x in tensors.items():
        assert np.isfinite(x).all()
        if x.ndim > 1:
            assert 0.8 < x.std() * x.shape[-1] ** 0.5 < 1.2, name
        else:
            assert (x == (1 if "norm" in name else 0)).all()
    kept = sum(each.n_bytes for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors if each.name != "token_embd.weight")
    assert read == kept


@pytest.mark.usefixtures("llama")
def test_rows_against_llama_cpp(small: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = Ceilings(2e10, 1e10, {torch.float32: 1e11, torch.bfloat16: 2e11})
    monkeypatch.setattr(stages, "measure_ceilings", lambda timer, **how: ceilings)
    setting = Setting(small, torch.device("cpu"), torch.bfloat16, Sizes(context=17, prompt=9))
    report = stages.measure(setting, Timer(budget=0, least=1), peer=sys.executable)
    names = [f"{work} {kind}" for kind in ("int4", "int8", "bfloat16") for work in ("decode", "prefill")]
    assert [row.name for row in report.rows] == names
    assert all(row.theirs and row.ratio for row in report.rows)
    assert all(row.gb_per_s and row.their_gb_per_s for row in report.rows if "decode" in row.name)
    assert report.meanings["theirs"] == "theirs: llama-cpp-python 9.9"


@pytest.mark.usefixtures("llama")
def test_the_child_tells_its_times(tmp_path: Path, small: Shape) -> None:
    peer.write(tmp_path / "m.gguf", small.config.thinker, "q8_0")
    command = [sys.executable, str(peer.CHILD), str(tmp_path / "m.gguf"), "1", "17", "9", "3"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for work in ("decode", "prefill"):
        assert len(found[work]["seconds"]) == 3 and found[work]["best"] == min(found[work]["seconds"])


def test_a_python_without_it_is_told(tmp_path: Path, small: Shape) -> None:
    setting = Setting(small, torch.device("cpu"), torch.bfloat16)
    for python in (sys.executable, str(tmp_path / "none")):
        with pytest.raises(OptionError, match="has no llama-cpp-python"):
            stages.measure(setting, Timer(budget=0), peer=python)


@pytest.mark.usefixtures("llama")
def test_a_child_that_ends_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"none")
    with pytest.raises(OptionError, match="ended with code 1"), peer.child(sys.executable, tmp_path / "m.gguf", 1, 17, 9):
        pass
