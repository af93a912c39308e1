"""Facts that a checkpoint states about its decoders and its whole; none has a default here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omni.encoders.config import AudioConfig, VisionConfig
from omni.talker.config import BigVGANConfig, DiTConfig, TalkerConfig


@dataclass(frozen=True)
class Yarn:
    """Rotary positions stretched over longer texts than those in training (YaRN, arXiv 2309.00071).

    Attributes:
        factor: how many times as long.
        original_positions: of the longest text in training.
        fast, slow: how often a frequency turns within that text, from which on it stays as it is, and up to which it is
            stretched in full.
        truncate: the frequencies between are counted from and to whole ones.
        attention_factor: of cosines and sines.
    """

    factor: float
    original_positions: int
    fast: float
    slow: float
    truncate: bool
    attention_factor: float


@dataclass(frozen=True)
class DecoderConfig:
    """A text decoder.

    Attributes:
        axes: for each of the head_dim / 2 frequencies, the position axis that turns it: all 0 are plain rotary positions.
        rope_scaling: None where positions are as in training.
        qkv_bias, o_bias: of the projections around attention.
        qk_norm: each head's queries and keys are normed before they are turned.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    axes: tuple[int, ...]
    rope_scaling: Yarn | None
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool
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
    """Attributes:
    eos_ids: any of them ends a text.
    audio, vision: None for a model without ears, or without eyes; media: None where it has neither.
    """

    vocab_size: int
    tie_word_embeddings: bool
    eos_ids: tuple[int, ...]
    decoder: DecoderConfig
    audio: AudioConfig | None
    vision: VisionConfig | None
    media: MediaIds | None


@dataclass(frozen=True)
class ModelConfig:
    """Attributes:
    talker: with its decoder, `dit` and `bigvgan` None for a model without a voice.
    dtype: of thinker and talker in the files, as torch names it ("bfloat16").
    """

    thinker: ThinkerConfig
    talker: TalkerConfig | None
    talker_decoder: DecoderConfig | None
    dit: DiTConfig | None
    bigvgan: BigVGANConfig | None
    dtype: str

    def without_voice(self) -> ModelConfig:
        return replace(self, talker=None, talker_decoder=None, dit=None, bigvgan=None)
