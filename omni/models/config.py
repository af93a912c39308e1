"""config.json, read into frozen records; what the checkpoint states has no default here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from omni.encoders.config import AudioConfig, MelConfig, PixelConfig, VisionConfig
from omni.errors import CheckpointError
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


class _Node:
    """A JSON object that names the full path of a key it lacks."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self._data, self._path = data, path

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def child(self, key: str) -> _Node:
        value = self[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._path}.{key} is no object; the checkpoint's config is damaged")
        return _Node(value, f"{self._path}.{key}")

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise CheckpointError(f"{self._path} lacks {key!r}; is this a Qwen2.5-Omni checkpoint?")
        return self._data[key]

    def first(self, *keys: str) -> Any:
        """The value of the first key that is there."""
        return self[next((k for k in keys if k in self), keys[0])]

    def get(self, key: str, default: Any) -> Any:
        return self._data[key] if key in self else default

    def __getattr__(self, key: str) -> Any:
        return self[key]


def read_json(path: Path) -> Mapping[str, Any]:
    """One JSON object from a checkpoint's file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(f"{path.name} cannot be read from {path.parent}: {e.strerror}") from e
    except ValueError as e:
        raise CheckpointError(f"{path} is not JSON: {e}") from e
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return data


def read_config(folder: Path) -> OmniConfig:
    """Read `config.json` of a checkpoint folder; CheckpointError names what is missing."""
    root = _Node(read_json(folder / "config.json"), "config.json")
    kind = root.get("model_type", None)
    if kind != "qwen2_5_omni":
        raise CheckpointError(f"config.json says model_type {kind!r}; omni reads 'qwen2_5_omni'")
    with _damage_told("config.json"):
        config = _omni(root)
        _check_kinds(config)
        return config


@contextmanager
def _damage_told(file: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"{file} holds a value of the wrong kind ({e}); fetch it again") from e


def _check_kinds(record: Any) -> None:
    """Raise TypeError where JSON gave another kind than the record states."""
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            _check_kinds(value)
            continue
        values = value if isinstance(value, tuple) else (value,)
        wanted = {"int": int, "tuple[int, ...]": int, "float": float, "tuple[float, float, float]": float}.get(
            str(field.type)
        )
        for v in values if wanted else ():
            if isinstance(v, bool) or not isinstance(v, int | float if wanted is float else int):
                raise TypeError(f"{field.name} is {value!r}")


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _omni(root: _Node) -> OmniConfig:
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


def _decoder(c: _Node) -> DecoderConfig:
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


def _thinker(c: _Node) -> ThinkerConfig:
    text = c.child("text_config")
    return ThinkerConfig(
        vocab_size=text.vocab_size,
        # transformers obeys the outer key and, where text_config has none, writes a default of true into it
        tie_word_embeddings=bool(c.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        eos_ids=_ids(c.eos_token_id),
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


def _audio(c: _Node) -> AudioConfig:
    return AudioConfig(
        num_mel_bins=c.num_mel_bins,
        d_model=c.d_model,
        encoder_layers=c.encoder_layers,
        encoder_attention_heads=c.encoder_attention_heads,
        encoder_ffn_dim=c.encoder_ffn_dim,
        n_window=c.n_window,
        output_dim=c.output_dim,
    )


def _vision(c: _Node) -> VisionConfig:
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


def _talker(c: _Node) -> TalkerConfig:
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


def _dit(c: _Node) -> DiTConfig:
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


def _bigvgan(c: _Node) -> BigVGANConfig:
    return BigVGANConfig(
        mel_dim=c.mel_dim,
        upsample_initial_channel=c.upsample_initial_channel,
        upsample_rates=tuple(c.upsample_rates),
        upsample_kernel_sizes=tuple(c.upsample_kernel_sizes),
        resblock_kernel_sizes=tuple(c.resblock_kernel_sizes),
        resblock_dilation_sizes=tuple(tuple(d) for d in c.resblock_dilation_sizes),
    )


def _preprocessor(folder: Path, part: str) -> _Node:
    """`preprocessor_config.json`, flat; or a part of `processor_config.json`, which transformers 5 writes instead."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            node = _Node(read_json(folder / name), name)
            return node.child(part) if part in node else node
    return _Node({}, "preprocessor_config.json")


def read_pixels(folder: Path, vision: VisionConfig) -> PixelConfig:
    """Picture pre-processing; where no file says, the patches are the tower's and the rest is Qwen2-VL's."""
    with _damage_told("preprocessor_config.json"):
        c = _preprocessor(folder, "image_processor")
        size = c.child("size") if "size" in c else _Node({}, "size")
        low, high = _frame_pixels(folder)
        config = PixelConfig(
            patch_size=c.get("patch_size", vision.patch_size),
            temporal_patch_size=c.get("temporal_patch_size", vision.temporal_patch_size),
            merge_size=c.get("merge_size", vision.spatial_merge_size),
            min_pixels=c.get("min_pixels", size.get("shortest_edge", 3136)),
            max_pixels=c.get("max_pixels", size.get("longest_edge", 12845056)),
            mean=tuple(c.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
            std=tuple(c.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
            frame_min_pixels=low,
            frame_max_pixels=high,
        )
        _check_kinds(config)
    theirs = (config.patch_size, config.temporal_patch_size, config.merge_size)
    ours = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    if theirs != ours or len(config.mean) != 3 or len(config.std) != 3:
        raise CheckpointError(
            f"the pre-processor cuts patches of {theirs}, and the vision tower reads {ours}; fetch both again"
        )
    return config


def _frame_pixels(folder: Path) -> tuple[int, int]:
    """Bounds of a video frame's area; no file says them in the published checkpoints, and the processor has its own."""
    name = "video_preprocessor_config.json"
    if (folder / name).exists():
        c = _Node(read_json(folder / name), name)
    else:
        c = _preprocessor(folder, "video_processor")
        c = c if "video_processor_type" in c else _Node({}, name)
    size = c.child("size") if "size" in c else _Node({}, "size")
    low, high = size.get("shortest_edge", 128 * 28 * 28), size.get("longest_edge", 768 * 28 * 28)
    return c.get("min_pixels", low), c.get("max_pixels", high)


def read_mel(folder: Path, audio: AudioConfig) -> MelConfig:
    """Sound pre-processing; where no file says, Whisper's front end over 300 s."""
    with _damage_told("preprocessor_config.json"):
        c = _preprocessor(folder, "feature_extractor")
        config = MelConfig(
            sampling_rate=c.get("sampling_rate", 16000),
            n_fft=c.get("n_fft", 400),
            hop_length=c.get("hop_length", 160),
            feature_size=c.get("feature_size", audio.num_mel_bins),
            chunk_length=c.get("chunk_length", 300),
        )
        _check_kinds(config)
    if config.feature_size != audio.num_mel_bins:
        raise CheckpointError(
            f"the pre-processor makes {config.feature_size} mel bins, and the audio tower reads {audio.num_mel_bins}; "
            "fetch both again"
        )
    return config
