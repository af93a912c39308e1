"""Sizes of the small model, as the config of a published checkpoint."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import Qwen2_5OmniConfig

from demos.small_model import BUILD
from demos.small_model.nets.words import special, vocab_size
from omni.families import read_config
from omni.models.config import ModelConfig

HIDDEN = 192
MIN_PIXELS, MAX_PIXELS = 40 * 28 * 28, 64 * 28 * 28
"""A picture becomes 40 to 64 rows."""
FRAME_MIN_PIXELS, FRAME_MAX_PIXELS = 9 * 28 * 28, 16 * 28 * 28
"""A second of video, two frames, becomes 9 to 16 rows."""
CODES = {"start": 8293, "end": 8294, "pad": 8292, "mask": 8296}


def _decoder(
    layers: int, hidden: int, heads: int, kv_heads: int, mlp: int, theta: float, sections: list[int]
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 32,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": sections},
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    }


def config() -> Qwen2_5OmniConfig:
    """The config.json of the small model."""
    media = {
        "audio_token_index": special("<|AUDIO|>"),
        "image_token_index": special("<|IMAGE|>"),
        "video_token_index": special("<|VIDEO|>"),
        "audio_start_token_id": special("<|audio_bos|>"),
        "audio_end_token_id": special("<|audio_eos|>"),
        "vision_start_token_id": special("<|vision_bos|>"),
        "vision_end_token_id": special("<|vision_eos|>"),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    audio = {
        "num_mel_bins": 80,
        "d_model": 192,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 640,
        "max_source_positions": 1500,
        "n_window": 200,
        "output_dim": HIDDEN,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_heads": 4,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": HIDDEN,
    }
    thinker = media | {
        "bos_token_id": special("<|im_start|>"),
        "eos_token_id": special("<|im_end|>"),
        "pad_token_id": special("<|endoftext|>"),
        "vision_token_id": special("<|vision_pad|>"),
        "user_token_id": ord("u"),
        "audio_config": audio,
        "vision_config": vision,
        # the order of the sections gives the width the slowest frequencies, so it gets most: the first to tell columns,
        # the last, which hardly turn, to find what was shown however long ago
        "text_config": _decoder(6, HIDDEN, 6, 2, 576, 10000.0, [2, 1, 13]) | {"vocab_size": vocab_size()},
    }
    talker = media | _decoder(5, 192, 6, 2, 512, 500.0, [2, 5, 9]) | {
        "vocab_size": 8448,
        "embedding_size": HIDDEN,
        "spatial_merge_size": 2,
        "tts_text_start_token_id": special("tts_start"),
        "tts_text_end_token_id": special("tts_end"),
        "tts_text_pad_token_id": special("tts_pad"),
        "tts_codec_start_token_id": CODES["start"],
        "tts_codec_end_token_id": CODES["end"],
        "tts_codec_pad_token_id": CODES["pad"],
        "tts_codec_mask_token_id": CODES["mask"],
    }  # fmt: skip
    dit = {
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "head_dim": 32,
        "ff_mult": 2,
        "emb_dim": 64,
        "block_size": 24,
        "look_ahead_layers": [3],
        "look_backward_layers": [0, 4],
        "repeats": 2,
        "num_embeds": 8193,
        "mel_dim": 80,
        "enc_emb_dim": 192,
        "enc_dim": 32,
        "enc_channels": [32, 32, 32, 32, 96],
        "enc_kernel_sizes": [5, 3, 3, 3, 1],
        "enc_dilations": [1, 2, 3, 4, 1],
        "enc_attention_channels": 8,
        "enc_res2net_scale": 2,
        "enc_se_channels": 8,
    }
    vocoder = {
        "mel_dim": 80,
        "upsample_initial_channel": 192,
        "upsample_rates": [5, 3, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 7, 4, 4, 4, 4],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
    }
    return Qwen2_5OmniConfig(
        thinker_config=thinker,
        talker_config=talker,
        token2wav_config={"dit_config": dit, "bigvgan_config": vocoder},
        enable_audio_output=True,
    )


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tree = config().to_dict() | {"architectures": ["Qwen2_5OmniForConditionalGeneration"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(tree, indent=1) + "\n")


@lru_cache
def omni_config() -> ModelConfig:
    """The same, as omni reads it."""
    write(BUILD / "shape")
    return read_config(BUILD / "shape")
