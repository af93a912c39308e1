"""Qwen2.5-Omni, 3B and 7B (Qwen2.5-Omni report): sees, hears and speaks."""

from __future__ import annotations

from dataclasses import replace

import torch

from omni.encoders.audio import STACKS as AUDIO_STACKS
from omni.encoders.audio import ZEROS as AUDIO_ZEROS
from omni.encoders.audio import AudioTower
from omni.encoders.config import AudioConfig, VisionConfig
from omni.encoders.vision import STACKS as VISION_STACKS
from omni.encoders.vision import VisionTower
from omni.families.family import Family
from omni.families.text import read_decoder, stored_dtype
from omni.loading.checkpoint import Layout
from omni.loading.json import Node, ids_of
from omni.models.config import DecoderConfig, MediaIds, ModelConfig, ThinkerConfig
from omni.models.decoder import STACKS as DECODER_STACKS
from omni.models.decoder import Decoder
from omni.models.model import OmniModel
from omni.models.thinker import Thinker
from omni.prompt.positions import Clock
from omni.talker.config import BigVGANConfig, DiTConfig, EcapaConfig, TalkerConfig
from omni.talker.dual_track import DualTrack
from omni.talker.vocoder import FlowVocoder

VOICE = ("talker.*", "token2wav.*")
LAYOUT = Layout(
    prefixes=(
        ("thinker.embed_tokens.", "thinker.model.embed_tokens."),
        ("thinker.decoder.", "thinker.model."),
        ("talker.embed_tokens.", "talker.model.embed_tokens."),
        ("talker.decoder.", "talker.model."),
    ),
    stacks={**DECODER_STACKS, **AUDIO_STACKS, **VISION_STACKS},
    zeros=AUDIO_ZEROS,
    # the first takes no part in inference; the second is computed, and was left in the published files by mistake
    unused=(
        "thinker.audio_tower.audio_bos_eos_token.weight",
        "token2wav.code2wav_dit_model.rotary_embed.inv_freq",
    ),
)
SPEAKING = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual "
    "inputs, as well as generating text and speech."
)
"""The system prompt that the published checkpoints were taught to speak with."""


def layout(config: ModelConfig) -> Layout:
    return LAYOUT if config.talker else replace(LAYOUT, unused=LAYOUT.unused + VOICE)


def build(config: ModelConfig) -> OmniModel:
    with torch.device("meta"):
        talker = vocoder = None
        if config.talker and config.talker_decoder and config.dit and config.bigvgan:
            talker = DualTrack(config.talker, Decoder(config.talker_decoder), config.dit.num_codes + 1)
            vocoder = FlowVocoder(config.dit, config.bigvgan)
        return OmniModel(config, thinker(config.thinker), talker, vocoder).eval().requires_grad_(False)


def thinker(config: ThinkerConfig) -> Thinker:
    assert config.audio and config.vision
    return Thinker(config, AudioTower(config.audio), VisionTower(config.vision))


def clock(config: ModelConfig) -> Clock:
    """A clip and its sound alternate in runs of `seconds_per_chunk`."""
    media = config.thinker.media
    assert media
    return Clock(media.positions_per_second, media.positions_per_second * media.seconds_per_chunk)


def dtype_of(name: str, dtype: torch.dtype, mel_dtype: torch.dtype) -> torch.dtype:
    """The vocoder computes in float32 throughout, but for the products of its flow-matching blocks."""
    if name.startswith("token2wav.code2wav_dit_model.transformer_blocks.") and (".attn." in name or ".ff." in name):
        return mel_dtype
    return torch.float32 if name.startswith("token2wav.") else dtype


def read(root: Node) -> ModelConfig:
    thinker = _thinker(root.child("thinker_config"))
    speaks = bool(root.get("enable_audio_output", True)) and "talker_config" in root and "token2wav_config" in root
    if not speaks:
        return ModelConfig(thinker, None, None, None, None, stored_dtype(root))
    talker, wave = root.child("talker_config"), root.child("token2wav_config")
    return ModelConfig(
        thinker, _talker(talker), _decoder(talker), _dit(wave.child("dit_config")), _bigvgan(wave.child("bigvgan_config")),
        stored_dtype(root),
    )  # fmt: skip


def _decoder(c: Node) -> DecoderConfig:
    return read_decoder(c, qkv_bias=True, sectioned=True)


def _thinker(c: Node) -> ThinkerConfig:
    text = c.child("text_config")
    return ThinkerConfig(
        vocab_size=text.vocab_size,
        # transformers obeys the outer key and, where text_config has none, writes a default of true into it
        tie_word_embeddings=bool(c.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        eos_ids=ids_of(c.eos_token_id),
        decoder=_decoder(text),
        audio=_audio(c.child("audio_config")),
        vision=_vision(c.child("vision_config")),
        media=MediaIds(
            audio=c.first("audio_token_index", "audio_token_id"),
            image=c.first("image_token_index", "image_token_id"),
            video=c.first("video_token_index", "video_token_id"),
            audio_start=c.audio_start_token_id,
            audio_end=c.audio_end_token_id,
            vision_start=c.vision_start_token_id,
            vision_end=c.vision_end_token_id,
            positions_per_second=c.position_id_per_seconds,
            seconds_per_chunk=c.seconds_per_chunk,
        ),
    )


def _audio(c: Node) -> AudioConfig:
    return AudioConfig(
        num_mel_bins=c.num_mel_bins,
        d_model=c.d_model,
        encoder_layers=c.encoder_layers,
        encoder_attention_heads=c.encoder_attention_heads,
        encoder_ffn_dim=c.encoder_ffn_dim,
        n_window=c.n_window,
        output_dim=c.output_dim,
    )


def _vision(c: Node) -> VisionConfig:
    return VisionConfig(
        depth=c.depth,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_heads=c.num_heads,
        in_channels=c.get("in_channels", c.get("in_chans", 3)),
        patch_size=c.patch_size,
        temporal_patch_size=c.temporal_patch_size,
        spatial_merge_size=c.spatial_merge_size,
        window_size=c.window_size,
        fullatt_block_indexes=tuple(c.fullatt_block_indexes),
        out_hidden_size=c.out_hidden_size,
    )


def _talker(c: Node) -> TalkerConfig:
    return TalkerConfig(
        vocab_size=c.vocab_size,
        embedding_size=c.embedding_size,
        hidden_size=c.hidden_size,
        text_end_id=c.tts_text_end_token_id,
        text_pad_id=c.tts_text_pad_token_id,
        codec_start_id=c.tts_codec_start_token_id,
        codec_end_id=c.tts_codec_end_token_id,
        codec_pad_id=c.tts_codec_pad_token_id,
        codec_mask_id=c.tts_codec_mask_token_id,
    )


def _dit(c: Node) -> DiTConfig:
    # published configs say dim, depth, heads; transformers writes its own three names and leaves the mask's fields out
    return DiTConfig(
        hidden_size=c.first("hidden_size", "dim"),
        num_layers=c.first("num_hidden_layers", "depth"),
        num_heads=c.first("num_attention_heads", "heads"),
        head_dim=c.head_dim,
        ff_mult=c.ff_mult,
        code_dim=c.emb_dim,
        num_codes=c.num_embeds,
        repeats=c.repeats,
        mel_dim=c.mel_dim,
        voice_dim=c.enc_emb_dim,
        block_size=c.get("block_size", 24),
        look_ahead_layers=tuple(c.get("look_ahead_layers", (10,))),
        look_backward_layers=tuple(c.get("look_backward_layers", (0, 20))),
        ecapa=EcapaConfig(
            mel_dim=c.mel_dim,
            channels=tuple(c.enc_channels),
            kernel_sizes=tuple(c.enc_kernel_sizes),
            dilations=tuple(c.enc_dilations),
            attention_channels=c.enc_attention_channels,
            res2net_scale=c.enc_res2net_scale,
            se_channels=c.enc_se_channels,
            out_dim=c.enc_dim,
        ),
    )


def _bigvgan(c: Node) -> BigVGANConfig:
    return BigVGANConfig(
        mel_dim=c.mel_dim,
        upsample_initial_channel=c.upsample_initial_channel,
        upsample_rates=tuple(c.upsample_rates),
        upsample_kernel_sizes=tuple(c.upsample_kernel_sizes),
        resblock_kernel_sizes=tuple(c.resblock_kernel_sizes),
        resblock_dilation_sizes=tuple(tuple(d) for d in c.resblock_dilation_sizes),
    )


FAMILY = Family("qwen2_5_omni", read, layout, build, clock, dtype_of, SPEAKING, hermes=True)
