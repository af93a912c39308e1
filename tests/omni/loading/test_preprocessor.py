from __future__ import annotations

import json
from pathlib import Path

from omni.encoders.config import MelConfig, PixelConfig
from omni.loading.preprocessor import read_mel, read_pixels
from tests.omni.families.test_qwen2_5_omni import towers


def test_front_ends(tmp_path: Path) -> None:
    audio, vision = towers(3584)
    pixels = PixelConfig(
        patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=3136, max_pixels=12845056,
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    )  # fmt: skip
    mel = MelConfig(sampling_rate=16000, n_fft=400, hop_length=160, feature_size=128, chunk_length=300)
    assert (read_pixels(tmp_path, vision), read_mel(tmp_path, audio)) == (pixels, mel)

    image = {"size": {"shortest_edge": 100, "longest_edge": 2000}, "image_mean": [0, 0, 0]}
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": image, "feature_extractor": {"chunk_length": 30}})
    )
    small = read_pixels(tmp_path, vision)
    assert (small.min_pixels, small.max_pixels, small.mean) == (100, 2000, (0, 0, 0))
    assert read_mel(tmp_path, audio).chunk_length == 30

    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 5, "chunk_length": 7, "n_fft": 512}))
    assert read_pixels(tmp_path, vision).min_pixels == 5
    assert (read_mel(tmp_path, audio).chunk_length, read_mel(tmp_path, audio).n_fft) == (7, 512)
