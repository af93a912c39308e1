"""config.json, read into frozen records; what the checkpoint states has no default here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omni.encoders.config import AudioConfig, VisionConfig
from omni.errors import CheckpointError
from omni.loading.json import Node, check_kinds, damage_told, ids_of, read_json
from omni.talker.config import BigVGANConfig, DiTConfig, EcapaConfig, TalkerConfig


@dataclass(frozen=True)
class DecoderConfig:
    """A Qwen text decoder (`text_config`, `talker_config`).

    Attributes:
        mrope_section: frequencies that turn with time, height and width; they sum to head_dim / 2 and any may be 0.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...]
    max_positions: int


@dataclass(frozen=True)
class MediaIds:
    """Token ids that stand for media in a prompt, and the clock of their positions."""

    audio: int
    image: int
    video: int
    audio_start: int
    audio_end: int
    vision_start: int
    vision_end: int
    positions_per_second: int
    seconds_per_chunk: int


@dataclass(frozen=True)
class ThinkerConfig:
    vocab_size: int
    tie_word_embeddings: bool
    eos_ids: tuple[int, ...]
    decoder: DecoderConfig
    audio: AudioConfig
    vision: VisionConfig
    media: MediaIds


@dataclass(frozen=True)
class OmniConfig:
    """Attributes:
    talker: with its decoder, `dit` and `bigvgan` None in a checkpoint without speech.
    dtype: of thinker and talker in the files, as torch names it ("bfloat16").
    """

    thinker: ThinkerConfig
    talker: TalkerConfig | None
    talker_decoder: DecoderConfig | None
    dit: DiTConfig | None
    bigvgan: BigVGANConfig | None
    dtype: str


def read_config(folder: Path) -> OmniConfig:
    """Read `config.json` of a checkpoint folder; CheckpointError names what is missing."""
    root = Node(read_json(folder / "config.json"), "config.json")
    kind = root.get("model_type", None)
    if kind != "qwen2_5_omni":
        raise CheckpointError(f"config.json says model_type {kind!r}; omni reads 'qwen2_5_omni'")
    with damage_told("config.json"):
        config = _omni(root)
        check_kinds(config)
        return config


def _omni(root: Node) -> OmniConfig:
    thinker = root.child("thinker_config")
    speaks = bool(root.get("enable_audio_output", True)) and "talker_config" in root and "token2wav_config" in root
    dtype = str(root.get("dtype", root.get("torch_dtype", "float32")))
    if not speaks:
        return OmniConfig(_thinker(thinker), None, None, None, None, dtype)
    talker, wave = root.child("talker_config"), root.child("token2wav_config")
    return OmniConfig(
        _thinker(thinker), _talker(talker), _decoder(talker), _dit(wave.child("dit_config")),
        _bigvgan(wave.child("bigvgan_config")), dtype,
    )  # fmt: skip


def _decoder(c: Node) -> DecoderConfig:
    # transformers 5 folds rope_theta and rope_scaling into rope_parameters
    rope = c.child("rope_parameters") if "rope_parameters" in c else c.child("rope_scaling")
    theta = rope.get("rope_theta", None) or c.rope_theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"rope type {kind!r} is not supported; 'default' is")
    if c.get("use_sliding_window", False):
        raise CheckpointError("use_sliding_window is set; sliding-window decoders are not supported")
    heads = int(c.num_attention_heads)
    config = DecoderConfig(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_layers=c.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.get("head_dim", int(c.hidden_size) // heads),
        rms_norm_eps=c.rms_norm_eps,
        rope_theta=float(theta),
        mrope_section=tuple(rope.mrope_section),
        max_positions=c.max_position_embeddings,
    )
    if 2 * sum(config.mrope_section) != config.head_dim:
        raise CheckpointError(f"mrope_section {config.mrope_section} does not sum to half of head_dim {config.head_dim}")
    return config


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
