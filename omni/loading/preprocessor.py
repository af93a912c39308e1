"""The pre-processor's files: how pictures and sound are cut for the towers."""

from __future__ import annotations

from pathlib import Path

from omni.encoders.config import FRAME_MAX_PIXELS, FRAME_MIN_PIXELS, AudioConfig, MelConfig, PixelConfig, VisionConfig
from omni.errors import CheckpointError
from omni.loading.json import Node, check_kinds, damage_told, read_json


def _preprocessor(folder: Path, part: str) -> Node:
    """`preprocessor_config.json`, flat; or a part of `processor_config.json`, which transformers 5 writes instead."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            node = Node(read_json(folder / name), name)
            return node.child(part) if part in node else node
    return Node({}, "preprocessor_config.json")


def read_pixels(folder: Path, vision: VisionConfig) -> PixelConfig:
    """Picture pre-processing; where no file says, the patches are the tower's and the rest is Qwen2-VL's."""
    with damage_told("preprocessor_config.json"):
        c = _preprocessor(folder, "image_processor")
        size = c.part("size")
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
        check_kinds(config)
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
        c = Node(read_json(folder / name), name)
    else:
        c = _preprocessor(folder, "video_processor")
        c = c if "video_processor_type" in c else Node({}, name)
    size = c.part("size")
    low, high = size.get("shortest_edge", FRAME_MIN_PIXELS), size.get("longest_edge", FRAME_MAX_PIXELS)
    return c.get("min_pixels", low), c.get("max_pixels", high)


def read_mel(folder: Path, audio: AudioConfig) -> MelConfig:
    """Sound pre-processing; where no file says, Whisper's front end over 300 s."""
    with damage_told("preprocessor_config.json"):
        c = _preprocessor(folder, "feature_extractor")
        config = MelConfig(
            sampling_rate=c.get("sampling_rate", 16000),
            n_fft=c.get("n_fft", 400),
            hop_length=c.get("hop_length", 160),
            feature_size=c.get("feature_size", audio.num_mel_bins),
            chunk_length=c.get("chunk_length", 300),
        )
        check_kinds(config)
    if config.feature_size != audio.num_mel_bins:
        raise CheckpointError(
            f"the pre-processor makes {config.feature_size} mel bins, and the audio tower reads {audio.num_mel_bins}; "
            "fetch both again"
        )
    return config
