"""The tiny checkpoints keep their promises."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.oracle.tiny import NUM_CODES, STRAY_KEY, make, reference, tiny, token


@pytest.mark.oracle
def test_transformers_speaks(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    messages = [{"role": "user", "content": "Grüße, 你好 42"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, return_tensors="pt")
    assert tokenizer.decode(prompt.input_ids[0]) == text
    assert prompt.input_ids[0, 0] == token(151644)
    ids, wave = reference(checkpoint).generate(
        **prompt, thinker_max_new_tokens=5, talker_max_new_tokens=12, talker_do_sample=False
    )
    assert ids.shape[1] == prompt.input_ids.shape[1] + 5
    assert wave.shape == (12 * 480,)
    assert 0.1 < wave.abs().max() < 0.95


def test_mixed_is_laid_out_as_published() -> None:
    folder = tiny("mixed")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        tensors |= load_file(folder / shard)
    assert tensors.keys() == index["weight_map"].keys()
    assert STRAY_KEY in tensors
    assert index["metadata"]["total_size"] != sum(x.nbytes for x in tensors.values())
    for name, x in tensors.items():
        assert x.dtype == (torch.float32 if name.startswith("token2wav.") else torch.bfloat16)
    assert not tensors["talker.codec_head.weight"][NUM_CODES:].any()


def test_equal_seeds_equal_files(tmp_path: Path) -> None:
    again = make("odd", tmp_path)
    for path in tiny("odd").iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
