"""What a checkpoint states about its voice."""

from __future__ import annotations

from dataclasses import dataclass

from omni.kernels import BlockMask


@dataclass(frozen=True)
class TalkerConfig:
    """The talker around its decoder (`talker_config`)."""

    vocab_size: int
    embedding_size: int
    hidden_size: int
    text_end_id: int
    text_pad_id: int
    codec_start_id: int
    codec_end_id: int
    codec_pad_id: int
    codec_mask_id: int

    @property
    def stop_ids(self) -> tuple[int, int]:
        """Either ends the speech and is not spoken."""
        return self.codec_pad_id, self.codec_end_id


@dataclass(frozen=True)
class EcapaConfig:
    """Speaker encoder (`dit_config.enc_*`)."""

    mel_dim: int
    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    dilations: tuple[int, ...]
    attention_channels: int
    res2net_scale: int
    se_channels: int
    out_dim: int


@dataclass(frozen=True)
class DiTConfig:
    """Flow-matching transformer, codes to mel (`dit_config`)."""

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    ff_mult: int
    code_dim: int
    num_codes: int
    repeats: int
    mel_dim: int
    voice_dim: int
    block_size: int
    look_ahead_layers: tuple[int, ...]
    look_backward_layers: tuple[int, ...]
    ecapa: EcapaConfig

    def block_mask(self, layer: int) -> BlockMask:
        return BlockMask(self.block_size, int(layer in self.look_backward_layers), int(layer in self.look_ahead_layers))


@dataclass(frozen=True)
class BigVGANConfig:
    """Vocoder, mel to wave (`bigvgan_config`)."""

    mel_dim: int
    upsample_initial_channel: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]

    @property
    def hop(self) -> int:
        """Samples made of one mel frame."""
        hop = 1
        for rate in self.upsample_rates:
            hop *= rate
        return hop
