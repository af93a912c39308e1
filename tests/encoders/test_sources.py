"""Where media come from, and what tells two of them apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni.encoders.pictures import read_image
from omni.encoders.sources import digest_of
from omni.encoders.waves import read_audio
from omni.errors import MediaError
from tests.encoders.samples import clip_of


@pytest.mark.parametrize("read", [read_image, read_audio, clip_of])
def test_paths_that_are_no_files(read: Callable[[Any], object], tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello\n" * 50)
    empty = tmp_path / "empty.wav"
    empty.touch()
    for path, message in (
        (text, "text.png"), (empty, "empty.wav is empty"), (tmp_path, "is a directory"), (tmp_path / "none", "No such file"),
        (Path("/dev/zero"), "not a regular file"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=message):
            read(path)


def test_digest_of_tells_apart_what_reading_would() -> None:
    wave, pixels = np.linspace(-1, 1, 64, dtype=np.float32), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    turned = Image.fromarray(pixels)
    turned.info["exif"] = b"turned"
    known = [
        b"a file",
        "data:audio/wav;base64,AAAA",
        pixels,
        pixels[::-1],
        pixels.reshape(2, 8, 3),
        Image.fromarray(pixels),
        Image.fromarray(pixels[::-1].copy()),
        (wave, 16000),
        (wave, 24000),
        (wave * 0.5, 16000),
        (wave.astype(np.float64), 16000),
        [pixels, pixels],
        [pixels],
        [b""],
    ]
    digests = [digest_of(source) for source in known]
    assert None not in digests
    assert len(set(digests)) == len(known)
    assert digest_of((wave.copy(), 16000)) == digest_of((wave, 16000))
    unknown = [
        "path.wav",
        Path("path.wav"),
        turned,
        Image.new("P", (2, 2)),
        (wave, "16000"),
        np.array([object()]),
        None,
        [b"", 7],
        [],
    ]
    assert [digest_of(source) for source in unknown] == [None] * len(unknown)
