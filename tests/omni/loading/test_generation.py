"""generation_config.json, and what it means to requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from omni import Omni, Options
from omni.errors import CheckpointError
from omni.kernels.sampling import Sampling
from omni.loading.generation import GenerationDefaults, read_generation
from tests.oracle.tiny import tiny

QWEN3 = {
    "bos_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643], "pad_token_id": 151643, "temperature": 0.6,
    "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0",
}  # fmt: skip


def write(folder: Path, said: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("said", "sampling", "eos_ids"),
    [
        (QWEN3, Sampling(0.6, 20, 0.95, 1.0), (151645, 151643)),
        ({**QWEN3, "repetition_penalty": 1.1, "eos_token_id": 151643}, Sampling(0.6, 20, 0.95, 1.1), (151643,)),
        ({**QWEN3, "do_sample": False}, Sampling(0.0, 20, 0.95, 1.0), (151645, 151643)),
        ({"do_sample": True}, Sampling(1.0), ()),
        ({"repetition_penalty": 1.05, "max_new_tokens": 2048, "temperature": None}, Sampling(repetition_penalty=1.05), ()),
        ({"_from_model_config": True, "transformers_version": "4.50.0.dev0"}, Sampling(), ()),
    ],
)
def test_what_a_file_says(said: dict[str, Any], sampling: Sampling, eos_ids: tuple[int, ...], tmp_path: Path) -> None:
    assert read_generation(write(tmp_path, said)) == GenerationDefaults(sampling, eos_ids)


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert read_generation(tmp_path) == GenerationDefaults(Sampling(), ())


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ([], "no JSON object"),
        ({"do_sample": True, "temperature": -1}, "temperature is -1"),
        ({"top_k": "many"}, "top_k is 'many'"),
        ({"eos_token_id": ["<|im_end|>"]}, "eos_token_id is"),
        ({"eos_token_id": True}, "eos_token_id is"),
    ],
)
def test_a_damaged_file_is_named(said: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json.*{named}"):
        read_generation(write(tmp_path, said))


def test_a_request_overrides_each_field() -> None:
    own = Sampling(0.6, 20, 0.95, 1.1)
    assert Options().sampling(own) == own
    assert Options(temperature=0.0).sampling(own) == Sampling(0.0, 20, 0.95, 1.1)
    assert Options(top_k=0, top_p=1.0, repetition_penalty=1.0).sampling(own) == Sampling(0.6)
    assert Options(top_p=0.5).sampling(Sampling()) == Sampling(top_p=0.5)


def test_answers_are_made_as_the_checkpoint_says(tmp_path: Path) -> None:
    plain = Omni.load(tiny("7b-like"), speech=False, progress=False)
    folder = shutil.copytree(tiny("7b-like"), tmp_path / "sampled")
    warm = Omni.load(write(folder, {"do_sample": True, "temperature": 3.0, "top_k": 50}), speech=False, progress=False)
    hello = [{"role": "user", "content": "Hello"}]

    def answer(omni: Omni, **options: Any) -> str:
        return omni.generate(hello, max_tokens=8, seed=5, **options).text

    greedy, sampled = answer(plain), answer(warm)
    assert answer(plain, temperature=0) == greedy == answer(warm, temperature=0)
    assert answer(plain, temperature=3.0, top_k=50) == sampled != greedy
    assert answer(warm, top_k=1) == greedy
