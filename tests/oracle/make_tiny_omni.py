"""Tiny Qwen2.5-Omni checkpoints with random weights, in the published file layout.

They cannot think, but every part is there and works. transformers says how the tensors of a geometry are named and shaped.

Text ids are the official ones less 151387, so that 256 bytes and the special tokens fit 512 rows; codec ids are official.
The heads' rows of all special tokens are zero, so that text and speech run to the limit they are given, and every codec id
has a sound. With `ends`, text is printable ASCII, and the end tokens have large rows, so that
text and speech stop by themselves, mostly within some tens of steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers.utils import logging

from demos.small_model.nets.words import write_tokenizer_config
from tests.oracle.files import generator, save_shards, save_tokenizer, token, write_json

logging.set_verbosity_error()  # it warns of official configs: text ids of the talker lie outside its own vocabulary

VOCAB = 512
NUM_CODES = 8192
STRAY_KEY = "token2wav.code2wav_dit_model.rotary_embed.inv_freq"
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
]  # fmt: skip
"""Official ids 151643 and on; here 256 and on."""
SPEAKERS = {"Chelsie": 151872, "Ethan": 151870}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Decoder:
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    mlp: int
    mrope: tuple[int, int, int]


@dataclass(frozen=True)
class Tower:
    width: int
    heads: int
    layers: int
    mlp: int


@dataclass(frozen=True)
class Flow:
    """The DiT and its speaker encoder; `channels` is the width of the speaker encoder's blocks."""

    width: int
    heads: int
    head_dim: int
    layers: int
    back: tuple[int, ...]
    ahead: tuple[int, ...]
    code_dim: int
    channels: int
    res2net: int
    voice_dim: int = 192


@dataclass(frozen=True)
class Geometry:
    """Sizes of a tiny checkpoint.

    Attributes:
        text, talker: decoders; text.heads * text.head_dim must be text.hidden, the talker's need not.
        full: vision layers that see the whole frame.
        vocoder: channels after the vocoder's first convolution, a multiple of 64.
        published: lay the files out as the official ones: bfloat16 but for the vocoder side, three shards, an index with a
            wrong total, one stray tensor, the old class name, and a config in the words of transformers 4.
    """

    text: Decoder
    talker: Decoder
    vision: Tower
    full: tuple[int, ...]
    audio: Tower
    mel_bins: int
    flow: Flow
    vocoder: int
    published: bool = False


GEOMETRIES: dict[str, Geometry] = {
    # heads * head_dim of the talker is twice its hidden size, its MLP is wide
    "7b-like": Geometry(
        text=Decoder(hidden=112, heads=7, kv_heads=1, head_dim=16, layers=2, mlp=160, mrope=(2, 3, 3)),
        talker=Decoder(hidden=48, heads=6, kv_heads=2, head_dim=16, layers=2, mlp=320, mrope=(2, 3, 3)),
        vision=Tower(width=32, heads=2, layers=4, mlp=44),
        full=(1, 3),
        audio=Tower(width=24, heads=2, layers=2, mlp=56),
        mel_bins=128,
        flow=Flow(width=64, heads=4, head_dim=16, layers=4, back=(0, 2), ahead=(1,), code_dim=20, channels=16, res2net=2),
        vocoder=128,
    ),
    # decoders of different head sizes; the talker's width axis turns no frequency, seven of its heads share a key head
    "3b-like": Geometry(
        text=Decoder(hidden=96, heads=6, kv_heads=2, head_dim=16, layers=3, mlp=136, mrope=(2, 3, 3)),
        talker=Decoder(hidden=112, heads=14, kv_heads=2, head_dim=8, layers=2, mlp=144, mrope=(2, 2, 0)),
        vision=Tower(width=48, heads=4, layers=4, mlp=52),
        full=(1, 3),
        audio=Tower(width=40, heads=5, layers=2, mlp=72),
        mel_bins=128,
        flow=Flow(width=32, heads=2, head_dim=16, layers=4, back=(0, 3), ahead=(2,), code_dim=28, channels=24, res2net=2),
        vocoder=64,
    ),
    "mixed": Geometry(
        text=Decoder(hidden=64, heads=4, kv_heads=2, head_dim=16, layers=2, mlp=88, mrope=(2, 3, 3)),
        talker=Decoder(hidden=40, heads=3, kv_heads=1, head_dim=16, layers=2, mlp=176, mrope=(2, 3, 3)),
        vision=Tower(width=32, heads=2, layers=3, mlp=36),
        full=(2,),
        audio=Tower(width=48, heads=4, layers=2, mlp=104),
        mel_bins=128,
        flow=Flow(width=48, heads=3, head_dim=16, layers=3, back=(0, 2), ahead=(1,), code_dim=20, channels=16, res2net=2),
        vocoder=64,
        published=True,
    ),
    # nothing is a power of two, and what may differ does
    "odd": Geometry(
        text=Decoder(hidden=60, heads=5, kv_heads=1, head_dim=12, layers=3, mlp=82, mrope=(1, 2, 3)),
        talker=Decoder(hidden=34, heads=3, kv_heads=3, head_dim=14, layers=3, mlp=90, mrope=(4, 1, 2)),
        vision=Tower(width=36, heads=3, layers=5, mlp=41),
        full=(0, 3),
        audio=Tower(width=30, heads=3, layers=3, mlp=50),
        mel_bins=80,
        flow=Flow(
            width=42, heads=3, head_dim=10, layers=3, back=(1,), ahead=(0, 1), code_dim=18, channels=12, res2net=3,
            voice_dim=22,
        ),
        vocoder=192,
    ),
}  # fmt: skip


def make(geometry: str, folder: Path, seed: int = 0, ends: bool = False) -> Path:
    """Write a checkpoint of `GEOMETRIES[geometry]` into `folder` and return it; equal seeds give equal files."""
    g = GEOMETRIES[geometry]
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(g)
    with torch.device("meta"):
        model = Qwen2_5OmniForConditionalGeneration(config)
    tensors = dict(_tensors(model.state_dict(), g, seed, ends))
    tree = config.to_dict() | {"architectures": ["Qwen2_5OmniForConditionalGeneration"], "dtype": "float32"}
    if g.published:
        tensors[STRAY_KEY] = 10000.0 ** -(torch.arange(0, g.flow.head_dim, 2) / g.flow.head_dim)
        save_shards(tensors, folder, 3)
        _speak_transformers_4(tree, g)
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", tree)
    write_json(folder / "generation_config.json", {"_from_model_config": True, "transformers_version": "4.50.0.dev0"})
    write_json(folder / "preprocessor_config.json", _preprocessor(g))
    save_tokenizer(folder, SPECIAL_TOKENS)
    write_tokenizer_config(folder, 32768)
    voices = {name: _voice(f"{seed}/{name}", official, g.flow.voice_dim) for name, official in SPEAKERS.items()}
    torch.save(voices, folder / "spk_dict.pt")
    return folder


def _config(g: Geometry) -> Qwen2_5OmniConfig:
    media = {
        "audio_token_index": token(151646),
        "image_token_index": token(151655),
        "video_token_index": token(151656),
        "audio_start_token_id": token(151647),
        "audio_end_token_id": token(151648),
        "vision_start_token_id": token(151652),
        "vision_end_token_id": token(151653),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    audio = {
        "num_mel_bins": g.mel_bins,
        "d_model": g.audio.width,
        "encoder_layers": g.audio.layers,
        "encoder_attention_heads": g.audio.heads,
        "encoder_ffn_dim": g.audio.mlp,
        "max_source_positions": 1500,
        "n_window": 100,
        "output_dim": g.text.hidden,
    }
    vision = {
        "depth": g.vision.layers,
        "hidden_size": g.vision.width,
        "intermediate_size": g.vision.mlp,
        "num_heads": g.vision.heads,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": list(g.full),
        "out_hidden_size": g.text.hidden,
    }
    thinker = media | {
        "bos_token_id": token(151644),
        "eos_token_id": token(151645),
        "pad_token_id": token(151643),
        "vision_token_id": token(151654),
        "user_token_id": ord("u"),
        "audio_config": audio,
        "vision_config": vision,
        "text_config": _decoder(g.text) | {"vocab_size": VOCAB, "tie_word_embeddings": False},
    }
    talker = media | _decoder(g.talker) | {
        "vocab_size": 8448,
        "embedding_size": g.text.hidden,
        "head_dim": g.talker.head_dim,
        "spatial_merge_size": 2,
        "tts_text_start_token_id": token(151860),
        "tts_text_end_token_id": token(151861),
        "tts_text_pad_token_id": token(151859),
        "tts_codec_start_token_id": 8293,
        "tts_codec_end_token_id": 8294,
        "tts_codec_pad_token_id": 8292,
        "tts_codec_mask_token_id": 8296,
    }  # fmt: skip
    flow, wide = g.flow, g.flow.channels
    dit = {
        "hidden_size": flow.width,
        "num_hidden_layers": flow.layers,
        "num_attention_heads": flow.heads,
        "head_dim": flow.head_dim,
        "ff_mult": 2,
        "emb_dim": flow.code_dim,
        "block_size": 24,
        "look_ahead_layers": list(flow.ahead),
        "look_backward_layers": list(flow.back),
        "repeats": 2,
        "num_embeds": NUM_CODES + 1,
        "mel_dim": 80,
        "enc_emb_dim": flow.voice_dim,
        "enc_dim": wide + 4,
        "enc_channels": [wide, wide, wide, wide, 3 * wide],
        "enc_kernel_sizes": [5, 3, 3, 3, 1],
        "enc_dilations": [1, 2, 3, 4, 1],
        "enc_attention_channels": wide - 4,
        "enc_res2net_scale": flow.res2net,
        "enc_se_channels": wide - 6,
    }
    vocoder = {
        "mel_dim": 80,
        "upsample_initial_channel": g.vocoder,
        "upsample_rates": [5, 3, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 7, 4, 4, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    }
    return Qwen2_5OmniConfig(
        thinker_config=thinker,
        talker_config=talker,
        token2wav_config={"dit_config": dit, "bigvgan_config": vocoder},
        enable_audio_output=True,
    )


def _decoder(d: Decoder) -> dict[str, Any]:
    return {
        "hidden_size": d.hidden,
        "intermediate_size": d.mlp,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(d.mrope)},
        "use_sliding_window": False,
    }


TABLE = r"(embed_tokens|codec_embed|bos_eos_token)\.weight$"
# Factors on unit-variance weights: activations keep their size, heads choose clearly, mel and wave stay in their range.
GAINS = [
    (r"lm_head\.weight$", 2.0),
    (r"codec_head\.weight$", 3.0),
    (r"proj_out\.weight$", 2.5),
    (r"resblocks.*\.weight$", 0.35),
    (r"conv_post\.weight$", 0.2),
    (r"\.(alpha|beta)$", 0.2),
    (r"bigvgan.*\.bias$", 0.02),
    (r"\.bias$", 0.1),
]


def _tensors(shapes: dict[str, Tensor], g: Geometry, seed: int, ends: bool) -> Iterator[tuple[str, Tensor]]:
    """Every tensor is drawn from its own name, so that a change in one leaves the others as they were."""
    for name, like in shapes.items():
        x = torch.randn(like.shape, generator=generator(f"{seed}/{name}"))
        gain = next((factor for pattern, factor in GAINS if re.search(pattern, name)), 1.0)
        if x.ndim == 1:
            x = 1 + 0.1 * x if name.endswith("weight") else gain * x
        elif re.search(TABLE, name):
            x *= 0.5
        elif ".ups." in name:  # transposed, stride about half the kernel: two taps of each input channel reach a sample
            x *= gain / math.sqrt(2 * like.shape[0])
        else:
            x *= gain / math.sqrt(like[0].numel())
        if name.endswith("proj_out.bias"):
            x -= 5  # where log-mel values lie
        if name.endswith("lm_head.weight"):
            _seldom(x, token(151643), {token(151645): 2.5} if ends else {})
            if ends:
                x[:32] = x[127:256] = 0
        if name.endswith("codec_head.weight"):
            _seldom(x, NUM_CODES, {8294: 1.8, 8292: -1.8} if ends else {})
        yield name, x.bfloat16() if g.published and not name.startswith("token2wav.") else x


def _seldom(head: Tensor, first: int, gains: dict[int, float]) -> None:
    """Clear the rows from `first` on but for the end tokens, whose large rows are on top in some steps of a run."""
    row = head[first].clone()
    head[first:] = 0
    for end, gain in gains.items():
        head[end] = gain * row


def _voice(key: str, official: int, dim: int) -> dict[str, Any]:
    draw = generator(key)
    frames = int(torch.randint(50, 80, (), generator=draw))
    return {
        "bos_token": token(official),
        "cond": torch.randn(1, dim, generator=draw),
        "ref_mel": 2 * torch.randn(1, frames, 80, generator=draw) - 5,
    }


def _speak_transformers_4(tree: dict[str, Any], g: Geometry) -> None:
    """Change a config to the words of the published ones."""
    del tree["dtype"]
    tree |= {"architectures": ["Qwen2_5OmniModel"], "torch_dtype": "bfloat16", "enable_talker": True}
    thinker, talker, wave = tree["thinker_config"], tree["talker_config"], tree["token2wav_config"]
    for part in (thinker["text_config"], talker):
        rope = part.pop("rope_parameters")
        part["rope_theta"] = rope["rope_theta"]
        part["rope_scaling"] = {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"}
    dit = wave["dit_config"]
    dit.pop("rope_parameters", None)
    # the published names; transformers 5 reads only its own, so both stand here
    dit |= {"dim": g.flow.width, "depth": g.flow.layers, "heads": g.flow.heads, "torch_dtype": "float32"}
    for part in (thinker["audio_config"], thinker["vision_config"], dit, wave["bigvgan_config"]):
        part |= {"max_length": 20, "top_k": 50, "do_sample": False}
    wave["torch_dtype"] = "float32"


def _preprocessor(g: Geometry) -> dict[str, Any]:
    return {
        "chunk_length": 300,
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": g.mel_bins,
        "hop_length": 160,
        "image_mean": MEAN,
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": STD,
        "max_pixels": 12845056,
        "merge_size": 2,
        "min_pixels": 3136,
        "n_fft": 400,
        "n_samples": 4800000,
        "nb_max_frames": 30000,
        "padding_side": "right",
        "padding_value": 0.0,
        "patch_size": 14,
        "processor_class": "Qwen2_5OmniProcessor",
        "return_attention_mask": True,
        "sampling_rate": 16000,
        "temporal_patch_size": 2,
    }
