"""Models of text alone: what their configs say, that they answer as transformers' do, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omni import Omni
from omni.errors import CheckpointError, MediaError, VoiceError
from omni.families import config_in, family_in
from omni.loading.checkpoint import Checkpoint, Entry, plan
from omni.models.config import DecoderConfig, Yarn
from tests.oracle.make_tiny_text import VARIANTS, make
from tests.oracle.text import CHATS, LIMITS, errors, greedy, loaded
from tests.oracle.tiny import tiny

ASK = [{"role": "user", "content": "Hi."}]


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_those_of_transformers(variant: str) -> None:
    found = errors(variant)
    assert found.keys() == LIMITS.keys()
    assert {name: error for name, error in found.items() if error > LIMITS[name]} == {}


@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
def test_parts_of_text_are_lines(variant: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "One,"}, "two."]}]
    lines = [{"role": "user", "content": "One,\ntwo."}]
    assert greedy(loaded(variant), parts) == greedy(loaded(variant), lines)


def test_stops_end_an_answer(tmp_path: Path) -> None:
    omni = loaded("qwen2-untied")
    first = greedy(omni, CHATS[0])
    folder = make("qwen2-untied", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [511, first[3]]}))
    again = Omni.load(folder, dtype="float32", progress=False)
    assert greedy(again, CHATS[0]) == first[: first.index(first[3])]


# ---- configs


def tree_of(variant: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((tiny(variant) / "config.json").read_text())
    return tree


PUBLISHED: dict[str, tuple[dict[str, Any], DecoderConfig]] = {
    # hidden/layers/heads/kv heads/intermediate of the published files
    "Qwen2.5-0.5B-Instruct": (
        {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
         "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
         "rope_theta": 1000000.0, "max_window_layers": 21, "tie_word_embeddings": True, "vocab_size": 151936,
         "eos_token_id": 151645, "torch_dtype": "bfloat16"},
        DecoderConfig(896, 4864, 24, 14, 2, 64, 1e-6, 1e6, (0,) * 32, None, True, False, False, 32768),
    ),
    "Qwen2.5-Math-7B": (
        {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
         "num_key_value_heads": 4, "intermediate_size": 18944, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
         "rope_theta": 10000, "use_mrope": False, "tie_word_embeddings": False, "vocab_size": 152064,
         "eos_token_id": 151643},
        DecoderConfig(3584, 18944, 28, 28, 4, 128, 1e-6, 1e4, (0,) * 64, None, True, False, False, 4096),
    ),
    "Qwen3-0.6B": (
        {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "head_dim": 128,
         "num_key_value_heads": 8, "intermediate_size": 3072, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
         "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "attention_bias": False,
         "tie_word_embeddings": True, "vocab_size": 151936, "eos_token_id": 151645},
        DecoderConfig(1024, 3072, 28, 16, 8, 128, 1e-6, 1e6, (0,) * 64, None, False, False, True, 40960),
    ),
    "Qwen3-32B": (
        {"model_type": "qwen3", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "head_dim": 128,
         "num_key_value_heads": 8, "intermediate_size": 25600, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
         "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "attention_bias": False,
         "tie_word_embeddings": False, "vocab_size": 151936, "eos_token_id": 151645},
        DecoderConfig(5120, 25600, 64, 64, 8, 128, 1e-6, 1e6, (0,) * 64, None, False, False, True, 40960),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    tree, decoder = PUBLISHED[name]
    config = config_in(tree)
    assert config.thinker.decoder == decoder
    assert (config.thinker.vocab_size, config.thinker.eos_ids) == (tree["vocab_size"], (tree["eos_token_id"],))
    assert config.thinker.tie_word_embeddings == tree["tie_word_embeddings"]
    assert (config.thinker.audio, config.thinker.vision, config.thinker.media, config.talker) == (None,) * 4


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "tensors", "nbytes"),
    [("Qwen2.5-0.5B-Instruct", 290, 988_065_536), ("Qwen3-0.6B", 311, 1_503_264_768), ("Qwen3-32B", 707, 65_524_246_528)],
)
def test_plan_of_published_checkpoints(name: str, tensors: int, nbytes: int) -> None:
    """The 0.6B holds its tied head, the 0.5B does not."""
    tree = PUBLISHED[name][0]
    config = config_in(tree)
    checkpoint = Checkpoint({key: Entry(s, torch.bfloat16, Path("none"), 0) for key, s in shapes_of(tree).items()})
    if name == "Qwen2.5-0.5B-Instruct":
        checkpoint = Checkpoint({key: entry for key, entry in checkpoint.entries.items() if key != "lm_head.weight"})
    assert (len(checkpoint.entries), checkpoint.nbytes) == (tensors, nbytes)
    todo = plan(family_in(tree).build(config), checkpoint, family_in(tree).layout(config))
    head = 2 * config.thinker.vocab_size * config.thinker.decoder.hidden_size
    assert todo.read_bytes == nbytes - (head if name == "Qwen3-0.6B" else 0)
    assert todo.sizes(lambda name: torch.bfloat16) == {"thinker": todo.read_bytes}


def shapes_of(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensors of transformers' model."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    config = CONFIG_MAPPING[tree["model_type"]].from_dict(dict(tree))
    with torch.device("meta"):
        state = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_spellings_say_the_same(variant: str, tmp_path: Path) -> None:
    """The words of transformers 4, and those that transformers 5 saves."""
    from transformers import AutoConfig

    AutoConfig.from_pretrained(tiny(variant)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_theta" not in saved and "dtype" in saved
    assert config_in(saved) == config_in(tree_of(variant))


def test_biases_of_qwen3_are_told() -> None:
    decoder = config_in(tree_of("qwen3") | {"attention_bias": True}).thinker.decoder
    assert (decoder.qkv_bias, decoder.o_bias, decoder.qk_norm) == (True, True, True)


def test_a_head_has_its_size() -> None:
    """Its share of the rows, or for Qwen3 128, where no key says."""
    qwen2, qwen3 = tree_of("qwen2"), tree_of("qwen3-wide")
    assert config_in(qwen2).thinker.decoder.head_dim == 16
    assert config_in(qwen2 | {"head_dim": 8}).thinker.decoder.head_dim == 8
    assert config_in(qwen3).thinker.decoder.head_dim == 32
    assert config_in({k: v for k, v in qwen3.items() if k != "head_dim"}).thinker.decoder.head_dim == 128


@pytest.mark.parametrize(
    ("rope", "yarn", "longest"),
    [
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            Yarn(4.0, 32768, 32, 1, True, 1.138629436111989), 131072,
        ),
        ({"rope_type": "yarn", "factor": 2}, Yarn(2.0, 40960, 32, 1, True, 1.0693147180559945), 81920),
        (
            {"rope_type": "yarn", "original_max_position_embeddings": 10240, "beta_fast": 16, "beta_slow": 2,
             "truncate": False},
            Yarn(4.0, 10240, 16, 2, False, 1.138629436111989), 40960,
        ),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}, Yarn(4.0, 40960, 32, 1, True, 1.5), 163840),
        ({"rope_type": "yarn", "factor": 4.0, "mscale": 1, "mscale_all_dim": 1}, Yarn(4.0, 40960, 32, 1, True, 1.0), 163840),
        ({"rope_type": "yarn", "factor": 1.0}, Yarn(1.0, 40960, 32, 1, True, 1.0), 40960),
    ],
)  # fmt: skip
def test_yarn(rope: dict[str, Any], yarn: Yarn, longest: int) -> None:
    decoder = config_in(tree_of("qwen3") | {"max_position_embeddings": 40960, "rope_scaling": rope}).thinker.decoder
    assert (decoder.rope_scaling, decoder.max_positions) == (yarn, longest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_sliding_window": True}, r"sliding windows .*; take a checkpoint"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rope_scaling": {"type": "yarn"}}, "lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "'llama3' is not supported"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "'mrope' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": "four"}}, "wrong kind"),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}}, "wrong kind"),
        ({"rope_scaling": 4}, "rope_scaling is no object"),
        ({"rope_theta": None}, "lacks 'rope_theta'"),
        ({"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
        ({"num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
        ({"num_attention_heads": 0}, "wrong kind"),
        ({"vocab_size": "many"}, "wrong kind"),
    ],
)
def test_what_is_not_read_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        config_in(tree_of("qwen2") | change)


# ---- what text alone cannot do


def test_media_are_refused_by_name() -> None:
    omni = loaded("qwen3")
    picture, sound = Image.new("RGB", (28, 28)), (np.zeros(16000, np.float32), 16000)
    for part, said in (
        ({"type": "image", "image": picture}, r"messages\[0\]\.content\[1\]: this model does not see"),
        ({"type": "video", "video": [picture, picture]}, "this model does not see"),
        ({"type": "audio", "audio": sound}, "this model does not hear"),
    ):
        with pytest.raises(MediaError, match=said):
            omni.generate([{"role": "user", "content": ["What is this?", part]}])


def test_a_voice_is_refused() -> None:
    omni = loaded("qwen3")
    assert omni.voices == {}
    with pytest.raises(VoiceError):
        omni.generate(ASK, voice="Chelsie")
    with pytest.raises(VoiceError):
        list(omni.say("Hello."))
    with pytest.raises(VoiceError):
        omni.session(voice="Chelsie")


def test_a_conversation() -> None:
    session = loaded("qwen2-untied").session(max_tokens=6, temperature=0.0)
    for text in ("Hi.", "Again?"):
        session.append_text(text)
        assert list(session.respond())
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    with pytest.raises(MediaError, match="does not see"):
        session.append_image(Image.new("RGB", (28, 28)))
