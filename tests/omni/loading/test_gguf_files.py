"""What a GGUF says of its model becomes what a checkpoint's files would say, or an error that names it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from omni import Omni
from omni.cli.app import app
from omni.cli.doctor import examine
from omni.errors import CheckpointError
from omni.families import read_config
from omni.loading.generation import read_generation
from omni.prompt.template import DEFAULT
from omni.prompt.tokenizer import Tokenizer, read_added
from tests.oracle import make_tiny_gguf
from tests.oracle.make_tiny_text import TEMPLATE
from tests.oracle.tiny import tiny

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general__architecture": "llama"}, "architecture 'llama'"),
    "part of several": ({"split__count": 3}, "llama-gguf-split"),
    "rope linear": (
        {"qwen2__rope__scaling__type": "linear", "qwen2__rope__scaling__factor": 2.0},
        "rope.scaling.type linear",
    ),
    "rope without a kind": ({"qwen2__rope__scaling__factor": 2.0}, "rope.scaling.factor 2.0"),
    "rope of another gain": (
        {"qwen2__rope__scaling__type": "yarn", "qwen2__rope__scaling__attn_factor": 2.0},
        "attn_factor 2.0",
    ),
    "part of a head is turned": ({"qwen2__rope__dimension_count": 8}, "rope.dimension_count 8"),
    "window": ({"qwen2__attention__sliding_window": 512}, "sliding_window"),
    "experts": ({"qwen2__expert_count": 8}, "expert_count"),
    "pooling": ({"qwen2__pooling_type": 3}, "pooling_type"),
    "heads by layer": ({"qwen2__attention__head_count": [4, 4, 4]}, "one number"),
    "width": ({"qwen2__embedding_length": 128}, "of another shape"),
    "no width": ({"qwen2__embedding_length": None}, "hidden_size"),
    "more layers": ({"qwen2__block_count": 4}, "missing"),
    "fewer layers": ({"qwen2__block_count": 2}, "not used"),
    "no layers": ({"qwen2__block_count": 0}, "num_layers"),
    "layers of a text": ({"qwen2__block_count": "3"}, "block_count"),
    "tokenizer": ({"tokenizer__ggml__model": "llama"}, "tokenizer of model 'llama'"),
    "cut of words": ({"tokenizer__ggml__pre": "llama-bpe"}, "llama-bpe"),
    "token before texts": ({"tokenizer__ggml__add_bos_token": True}, "before every text"),
    "no tokens": ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens"),
    "few tokens": ({"tokenizer__ggml__tokens": ["a", "b"]}, "token_type"),
    "same tokens": ({"tokenizer__ggml__tokens": ["a"] * 512, "tokenizer__ggml__token_type": [1] * 512}, "twice"),
    "kind of tokens": ({"tokenizer__ggml__token_type": [6] * 512}, "kind 6"),
    "no merges": ({"tokenizer__ggml__merges": None}, "merges"),
    "merge of nothing known": ({"tokenizer__ggml__merges": ["zz yy"]}, "tokenizer"),
    "end beyond the rows": ({"tokenizer__ggml__eos_token_id": 100_000}, "100000"),
    "template": ({"tokenizer__chat_template": "{% for"}, "template"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_read_is_refused(fault: str, tmp_path: Path) -> None:
    metadata, told = REFUSED[fault]
    path = make_tiny_gguf.make(tiny("qwen2"), tmp_path, "BF16", **metadata)
    with pytest.raises(CheckpointError) as error:
        Omni.load(path, device="cpu", progress=False)
    assert told in str(error.value)
    out = io.StringIO()
    assert not examine(Console(file=out, width=2000), str(path), "cpu", "auto")
    assert told in out.getvalue()


def test_what_is_said(tmp_path: Path) -> None:
    sampling = {"general__sampling__temp": 0.5, "general__sampling__top_k": 20}
    path = make_tiny_gguf.make(tiny("qwen3-yarn"), tmp_path, "BF16", **sampling)
    ours, plain = read_config(path), read_config(tmp_path / "plain")
    assert ours.thinker.decoder == plain.thinker.decoder
    assert ours == plain
    defaults = read_generation(path)
    assert (defaults.sampling.temperature, defaults.sampling.top_k) == (0.5, 20)
    assert set(defaults.eos_ids) == set(read_generation(tmp_path / "plain").eos_ids)
    assert read_added(path) == read_added(tmp_path / "plain")
    words, meant = Tokenizer.read(path), Tokenizer.read(tmp_path / "plain")
    text = "One on two, 3.14 — ünï\u0065\u0301 <|im_end|>\n\n  and on…"
    assert words.encode(text) == meant.encode(text) and words.last == meant.last
    assert words.decode(words.encode(text)) == meant.decode(meant.encode(text))


def test_a_file_without_a_template_has_the_usual_one(tmp_path: Path) -> None:
    path = make_tiny_gguf.make(tiny("qwen2"), tmp_path, "BF16", tokenizer__chat_template=None)
    assert TEMPLATE != DEFAULT
    omni = Omni.load(path, device="cpu", progress=False)
    assert omni.generate([{"role": "user", "content": "Hi."}], max_tokens=2, temperature=0.0).done.token_ids


@pytest.mark.parametrize(
    ("form", "dtype", "weights", "told"),
    [
        ("Q4_0", "auto", "auto", ["22 tensors in Q4_0 stay in four bits", "1 tensors in Q4_0 become"]),
        ("Q4_0", "float32", "auto", ["23 tensors in Q4_0 become float32, exactly"]),
        ("Q8_0", "bfloat16", "int8", ["23 tensors in Q8_0 become bfloat16, rounded, and linear layers", "int8"]),
        ("BF16", "bfloat16", "auto", ["23 tensors in BF16 become bfloat16, exactly", "F32 become bfloat16, rounded"]),
    ],
)
def test_the_doctor_tells_what_is_rounded(form: str, dtype: str, weights: str, told: list[str], tmp_path: Path) -> None:
    path = make_tiny_gguf.make(tiny("qwen2-untied"), tmp_path, form)
    out = io.StringIO()
    assert examine(Console(file=out, width=2000), str(path), "cpu", dtype, weights)
    for line in told:
        assert line in out.getvalue()


def test_blocks_need_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tiny_gguf.make(tiny("qwen2"), tmp_path, "Q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"omni-runtime\[gguf\]"):
        Omni.load(path, device="cpu", progress=False)


def test_commands_take_a_file(tmp_path: Path) -> None:
    path = make_tiny_gguf.make(tiny("qwen2"), tmp_path, "Q8_0")
    for command in (["ask", "--model", str(path), "Hi.", "--max-tokens", "2"], ["doctor", "--model", str(path)]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
