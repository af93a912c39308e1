"""What a checkpoint states about its senses."""

from __future__ import annotations

from dataclasses import dataclass

FPS = 2.0
"""Frames a second that are looked at of a video, and that its clock is told, unless somebody says otherwise."""
FRAME_MIN_PIXELS, FRAME_MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28
"""Of a frame of video, in qwen_omni_utils and in transformers' processor."""


@dataclass(frozen=True)
class PixelConfig:
    """Picture pre-processing (`preprocessor_config.json`).

    Attributes:
        patch_size: side of a patch in pixels.
        temporal_patch_size: frames in a patch.
        merge_size: side, in patches, of the cell that becomes one row.
        min_pixels, max_pixels: bounds of a still image's area.
        frame_min_pixels, frame_max_pixels: of a frame of video (`video_preprocessor_config.json`); the published checkpoints
            have no such file and so the processor's own.
        mean, std: of RGB in 0..1.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    frame_min_pixels: int = FRAME_MIN_PIXELS
    frame_max_pixels: int = FRAME_MAX_PIXELS

    @property
    def factor(self) -> int:
        """Both sides of a resized picture are multiples of this."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class MelConfig:
    """Log-mel front end (`preprocessor_config.json`, Whisper's)."""

    sampling_rate: int
    n_fft: int
    hop_length: int
    feature_size: int
    chunk_length: int
    """Seconds of sound the model can hear in one piece."""

    @property
    def longest(self) -> int:
        """Samples of the longest sound."""
        return self.chunk_length * self.sampling_rate


@dataclass(frozen=True)
class VisionConfig:
    """Dynamic-resolution ViT with window attention (`vision_config`)."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    window_size: int
    fullatt_block_indexes: tuple[int, ...]
    out_hidden_size: int

    @property
    def patch_dim(self) -> int:
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_cells(self) -> int:
        """Side of an attention window, in merged cells."""
        return self.window_size // self.spatial_merge_size // self.patch_size


@dataclass(frozen=True)
class AudioConfig:
    """Block-wise Whisper-like encoder (`audio_config`)."""

    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    n_window: int
    output_dim: int

    @property
    def chunk_frames(self) -> int:
        """Mel frames of one block of attention (2 s)."""
        return 2 * self.n_window
