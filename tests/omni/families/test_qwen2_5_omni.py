from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omni.encoders.config import AudioConfig, VisionConfig
from omni.errors import CheckpointError
from omni.families import read_config
from omni.models.config import DecoderConfig, MediaIds, ModelConfig, ThinkerConfig
from omni.talker.config import BigVGANConfig, DiTConfig, EcapaConfig, TalkerConfig

DATA = Path(__file__).parents[2] / "data"
SIZES = ("7b", "3b")


def published(size: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((DATA / f"qwen2_5_omni_{size}.config.json").read_text())
    return tree


def read(folder: Path, tree: object) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(tree))
    return read_config(folder)


def decoder(**sizes: Any) -> DecoderConfig:
    return DecoderConfig(
        rms_norm_eps=1e-6, rope_theta=1e6, max_positions=32768, rope_scaling=None, qkv_bias=True, o_bias=False,
        qk_norm=False, **sizes,
    )  # fmt: skip


def towers(width: int) -> tuple[AudioConfig, VisionConfig]:
    audio = AudioConfig(
        num_mel_bins=128, d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120,
        n_window=100, output_dim=width,
    )  # fmt: skip
    vision = VisionConfig(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, in_channels=3, patch_size=14,
        temporal_patch_size=2, spatial_merge_size=2, window_size=112, fullatt_block_indexes=(7, 15, 23, 31),
        out_hidden_size=width,
    )  # fmt: skip
    return audio, vision


MEDIA = MediaIds(
    audio=151646, image=151655, video=151656, audio_start=151647, audio_end=151648, vision_start=151652, vision_end=151653,
    positions_per_second=25, seconds_per_chunk=2,
)  # fmt: skip
DIT = DiTConfig(
    hidden_size=1024, num_layers=22, num_heads=16, head_dim=64, ff_mult=2, code_dim=512, num_codes=8193, repeats=2,
    mel_dim=80, voice_dim=192, block_size=24, look_ahead_layers=(10,), look_backward_layers=(0, 20),
    ecapa=EcapaConfig(
        mel_dim=80, channels=(256, 256, 256, 256, 768), kernel_sizes=(5, 3, 3, 3, 1), dilations=(1, 2, 3, 4, 1),
        attention_channels=64, res2net_scale=2, se_channels=64, out_dim=128,
    ),
)  # fmt: skip
BIGVGAN = BigVGANConfig(
    mel_dim=80, upsample_initial_channel=1536, upsample_rates=(5, 3, 2, 2, 2, 2), upsample_kernel_sizes=(11, 7, 4, 4, 4, 4),
    resblock_kernel_sizes=(3, 7, 11), resblock_dilation_sizes=((1, 3, 5),) * 3,
)  # fmt: skip


def model(size: str) -> ModelConfig:
    """The published 7B and 3B (docs of the model, section 1.2), number by number."""
    if size == "7b":
        width, vocab = 3584, 152064
        think = decoder(
            hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28, num_kv_heads=4, head_dim=128,
            axes=(0,) * 16 + (1,) * 24 + (2,) * 24,
        )  # fmt: skip
        talk = decoder(
            hidden_size=896, intermediate_size=18944, num_layers=24, num_heads=12, num_kv_heads=4, head_dim=128,
            axes=(0,) * 16 + (1,) * 24 + (2,) * 24,
        )  # fmt: skip
    else:
        width, vocab = 2048, 151936
        think = decoder(
            hidden_size=2048, intermediate_size=11008, num_layers=36, num_heads=16, num_kv_heads=2, head_dim=128,
            axes=(0,) * 16 + (1,) * 24 + (2,) * 24,
        )  # fmt: skip
        talk = decoder(
            hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14, num_kv_heads=2, head_dim=64,
            axes=(0,) * 16 + (1,) * 16,
        )  # fmt: skip
    audio, vision = towers(width)
    thinker = ThinkerConfig(
        vocab_size=vocab, tie_word_embeddings=False, eos_ids=(151645,), decoder=think, audio=audio, vision=vision,
        media=MEDIA,
    )  # fmt: skip
    talker = TalkerConfig(
        vocab_size=8448, embedding_size=width, hidden_size=896, text_end_id=151861, text_pad_id=151859, codec_start_id=8293,
        codec_end_id=8294, codec_pad_id=8292, codec_mask_id=8296,
    )  # fmt: skip
    return ModelConfig(thinker, talker, talk, DIT, BIGVGAN, "bfloat16")


@pytest.mark.parametrize("size", SIZES)
def test_read_config(size: str, tmp_path: Path) -> None:
    assert read(tmp_path, published(size)) == model(size)


@pytest.mark.oracle
@pytest.mark.parametrize("size", SIZES)
def test_read_config_that_transformers_saved(size: str, tmp_path: Path) -> None:
    from transformers import Qwen2_5OmniConfig

    Qwen2_5OmniConfig.from_dict(published(size)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_theta" not in saved["talker_config"]
    # the names of transformers 4 live on in what it saves; what it writes by itself must do
    for old in ("dim", "depth", "heads"):
        del saved["token2wav_config"]["dit_config"][old]
    assert read(tmp_path, saved) == model(size)


def test_read_config_without_speech(tmp_path: Path) -> None:
    tree = published("7b")
    for silent in (tree | {"enable_audio_output": False}, {k: v for k, v in tree.items() if k != "talker_config"}):
        config = read(tmp_path, silent)
        assert config.thinker == model("7b").thinker
        assert (config.talker, config.talker_decoder, config.dit, config.bigvgan) == (None,) * 4


@pytest.mark.parametrize(
    ("inner", "outer", "tied"), [(None, None, False), (True, None, True), (True, False, False), (False, True, True)]
)
def test_read_config_tied(inner: bool | None, outer: bool | None, tied: bool, tmp_path: Path) -> None:
    tree = published("3b")
    for node, value in ((tree["thinker_config"], outer), (tree["thinker_config"]["text_config"], inner)):
        node["tie_word_embeddings"] = value
    assert read(tmp_path, tree).thinker.tie_word_embeddings is tied


def test_token_ids_may_be_zero_and_have_two_names(tmp_path: Path) -> None:
    tree = published("3b")
    tree["thinker_config"]["audio_token_index"] = 0
    tree["thinker_config"]["image_token_id"] = tree["thinker_config"].pop("image_token_index")
    media = read(tmp_path, tree).thinker.media
    assert (media.audio, media.image) == (0, 151655)


MISSING = [
    "model_type", "thinker_config", "thinker_config.text_config", "thinker_config.text_config.vocab_size",
    "thinker_config.text_config.rope_scaling", "thinker_config.text_config.rope_theta",
    "thinker_config.text_config.rope_scaling.mrope_section", "thinker_config.audio_config.n_window",
    "thinker_config.vision_config.depth", "thinker_config.audio_token_index", "thinker_config.position_id_per_seconds",
    "talker_config.embedding_size", "talker_config.tts_codec_pad_token_id", "token2wav_config.dit_config",
    "token2wav_config.dit_config.dim", "token2wav_config.bigvgan_config.upsample_rates",
]  # fmt: skip


@pytest.mark.parametrize("path", MISSING)
def test_a_missing_key_is_named(path: str, tmp_path: Path) -> None:
    tree = node = published("7b")
    *parents, key = path.split(".")
    for parent in parents:
        node = node[parent]
    del node[key]
    named = {"dim": "hidden_size"}.get(key, key)
    with pytest.raises(CheckpointError, match=named):
        read(tmp_path, tree)


WRONG = [
    ("thinker_config", 7, "thinker_config is no object"),
    ("thinker_config.text_config.rope_scaling.mrope_section", 3, "wrong kind"),
    ("thinker_config.text_config.rope_scaling.mrope_section", [16, 24, 25], "half of head_dim"),
    ("thinker_config.text_config.rope_scaling.rope_type", "yarn", "yarn"),
    ("talker_config.use_sliding_window", True, "sliding"),
    ("talker_config.num_attention_heads", "many", "wrong kind"),
    ("model_type", "qwen2_vl", "qwen2_vl"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_a_wrong_value_is_named(path: str, value: object, said: str, tmp_path: Path) -> None:
    tree = node = published("7b")
    *parents, key = path.split(".")
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, tree)
