"""What the numbers of a checkpoint may be: far beyond every published one, far from what would take all memory to build."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from omni.errors import CheckpointError

ID, WIDTH, LAYERS, FEW = (0, 2**31 - 1), (1, 2**20), (1, 1024), (1, 64)
USUAL = (1, 2**24)
BOUNDS: Mapping[str, tuple[float, float]] = {
    # ids and places, which begin at zero
    **dict.fromkeys(
        (
            "audio", "image", "video", "audio_start", "audio_end", "vision_start", "vision_end", "eos_ids", "text_end_id",
            "text_pad_id", "codec_start_id", "codec_end_id", "codec_pad_id", "codec_mask_id", "fullatt_block_indexes",
            "look_ahead_layers", "look_backward_layers",
        ),
        ID,
    ),
    "axes": (0, 2),
    **dict.fromkeys(("num_layers", "depth", "encoder_layers"), LAYERS),
    **dict.fromkeys(
        (
            "hidden_size", "intermediate_size", "out_hidden_size", "output_dim", "encoder_ffn_dim", "embedding_size",
            "num_codes", "channels", "attention_channels", "se_channels", "out_dim", "voice_dim", "code_dim",
            "upsample_initial_channel", "window_size",
        ),
        WIDTH,
    ),
    "d_model": (1, 2**16),
    **dict.fromkeys(("num_heads", "num_kv_heads", "encoder_attention_heads"), (1, 1024)),
    **dict.fromkeys(("n_window", "num_mel_bins", "mel_dim", "feature_size"), (1, 1024)),
    "head_dim": (2, 4096),
    "vocab_size": (1, 2**22),
    "max_positions": USUAL,
    **dict.fromkeys(
        (
            "temporal_patch_size", "spatial_merge_size", "merge_size", "in_channels", "ff_mult", "repeats", "res2net_scale",
            "kernel_sizes", "dilations", "upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes",
            "resblock_dilation_sizes",
        ),
        FEW,
    ),
    "patch_size": (1, 256),
    "block_size": (1, 4096),
    "positions_per_second": (1, 10_000),
    "seconds_per_chunk": (1, 3600),
    "sampling_rate": (1000, 384_000),
    "n_fft": (2, 2**16),
    "hop_length": (1, 2**16),
    "chunk_length": (1, 7200),
    **dict.fromkeys(("min_pixels", "max_pixels", "frame_min_pixels", "frame_max_pixels"), (1, 2**40)),
    # floats
    "rms_norm_eps": (1e-12, 0.1),
    "rope_theta": (1, 1e12),
    "factor": (1, 1024),
    "fast": (1e-3, 1e6),
    "slow": (1e-3, 1e6),
    "attention_factor": (1e-3, 1e3),
    "mean": (-10, 10),
    "std": (1e-3, 10),
}  # fmt: skip
"""By field, the least and the most; whole numbers that are not listed are USUAL."""
MOST_VALUES = {
    "axes": 2048,
    **dict.fromkeys(("eos_ids", "fullatt_block_indexes", "look_ahead_layers", "look_backward_layers"), 1024),
}
SEVERAL = 16
"""Values of a field that is not listed there."""


def check_bounds(record: Any) -> None:
    """Raise ValueError where a number of a record of facts, or of one inside it, cannot be."""
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            check_bounds(value)
            continue
        if isinstance(value, tuple) and len(value) > MOST_VALUES.get(field.name, SEVERAL):
            raise ValueError(f"{field.name} has {len(value)} values")
        for number in _numbers(value):
            check_number(field.name, number)


def check_number(name: str, number: float) -> None:
    """Raise ValueError where a number cannot be what a field of this name has."""
    low, high = BOUNDS.get(name, USUAL)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} is {number!r}, which is not from {low:g} to {high:g}")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, tuple):
        if len(value) > max(MOST_VALUES.values()):
            raise ValueError(f"{len(value)} values")
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def num_layers(record: Any) -> int:
    """Layers of all parts of a record of facts together."""
    num = 0
    for field in fields(record):
        value = getattr(record, field.name)
        num += num_layers(value) if is_dataclass(value) else value if BOUNDS.get(field.name) == LAYERS else 0
    return num


def check_ids(what: str, ids: Mapping[str, int], num_rows: int) -> None:
    """Raise CheckpointError for an id that the model has no row for."""
    for name, id in ids.items():
        if not 0 <= id < num_rows:
            raise CheckpointError(f"{what} has id {id} for {name!r}, and the model has {num_rows} rows; fetch both again")
