"""Clips that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import re
import struct
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni.encoders.sources import Budget
from omni.errors import MediaError, MediaLimitError, MediaWarning
from tests.encoders.samples import (
    WAV,
    clip_of,
    data_url,
    levels,
    quadrants,
    video_file,
)

VIDEOS = [
    ("a.mp4", "libx264", "aac"), ("b.mp4", "mpeg4", None), ("c.mkv", "libx264", "libopus"), ("d.webm", "libvpx", None),
    ("e.webm", "libvpx-vp9", "libopus"), ("f.avi", "mpeg4", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS)
def test_read_video(name: str, codec: str, sound: str | None, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, codec, sound=sound)
    for source in (path, str(path), path.read_bytes(), data_url(path.read_bytes(), "video/mp4")):
        clip = clip_of(source)
        assert all((frame.dtype, frame.shape) == (np.uint8, (48, 66, 3)) for frame in clip.frames)
        assert levels(clip.frames) == [0, 6, 12, 17, 23, 29]
        assert clip.times == pytest.approx([0, 0.6, 1.2, 1.7, 2.3, 2.9], abs=1e-3)
        assert clip.fps == pytest.approx(2.0)
        assert clip.has_audio == (sound is not None)


def test_read_video_of_a_part(tmp_path: Path) -> None:
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 64))
    clip = clip_of(path, start=0.55, end=1.5, num_frames=4)
    assert levels(clip.frames) == [6, 9, 12, 15]
    assert clip.times == pytest.approx([0.6, 0.9, 1.2, 1.5])
    assert clip.fps == pytest.approx(4.0)
    assert levels(clip_of(path, fps=10).frames) == list(range(30))
    with pytest.raises(MediaError, match=r"a\.mp4: no frame lies between"):
        clip_of(path, start=2, end=1)


@pytest.mark.parametrize(("stated", "end"), [(9, None), (60, None), (60, 9.0), (40, 2.0)])
def test_read_video_counts_where_the_container_lies(stated: int, end: float | None, tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.avi", "mpeg4").read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert struct.unpack("<I", data[at : at + 4]) == (30,)
    clip = clip_of(data[:at] + struct.pack("<I", stated) + data[at + 4 :], num_frames=4, end=end)
    assert levels(clip.frames) == ([0, 7, 13, 20] if end == 2.0 else [0, 10, 19, 29])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_read_video_is_upright(degrees: int, tmp_path: Path) -> None:
    pixels = quadrants(48, 64)
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 48), frames=[pixels] * 4, rotation=degrees)
    want = np.rot90(pixels, degrees // 90)  # counter-clockwise, as FFmpeg has it
    frame = next(iter(clip_of(path).frames))
    assert frame.shape == want.shape
    centre = (slice(6, None, 12), slice(6, None, 12))  # away from the edges that chroma blurs
    assert np.abs(frame[centre].astype(int) - want[centre]).max() < 12


@pytest.mark.parametrize(("flip", "matrix"), [((1, -1), (-1, 0, 0, 1)), ((-1, 1), (1, 0, 0, -1))])
def test_read_video_is_not_mirrored(flip: tuple[int, int], matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    pixels = quadrants(48, 64)
    data = video_file(tmp_path / "a.mp4", "libx264", size=(64, 48), frames=[pixels] * 4).read_bytes()
    one = 1 << 16
    plain = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b"tkhd"))
    a, b, c, d = (x * one for x in matrix)
    turned = data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]
    frame = next(iter(clip_of(turned).frames))
    want = pixels[:: flip[0], :: flip[1]]
    assert np.abs(frame[6::12, 6::12].astype(int) - want[6::12, 6::12]).max() < 12


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS[:5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_clip_that_is_cut_short_shows_what_is_there(
    name: str, codec: str, sound: str | None, share: float, tmp_path: Path
) -> None:
    data = video_file(tmp_path / name, codec, sound=sound).read_bytes()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cut = data[: int(share * len(data))]
        if share == 0.1:  # of some nothing is left
            with suppress(MediaError):
                clip_of(cut)
            return
        clip = clip_of(cut, fps=10)
    missing = len(data) - int(share * len(data))
    assert re.search(rf"cut short: {missing} bytes are missing; .* ends after \d\.\d s", str(told[0].message))
    got = levels(clip.frames)
    assert got[0] == 0
    assert got == sorted(got)
    assert max(got) >= 29 * (share - 0.3)


def test_a_clip_whose_index_is_missing(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mov", "libx264").read_bytes()  # it stands at the end, as recorders write it
    at = data.index(b"moov") + 4
    assert levels(clip_of(data).frames) == [0, 6, 12, 17, 23, 29]
    with pytest.raises(MediaError, match=f"cut short: {len(data) - at - 9} bytes are missing"):
        clip_of(data[: at + 9])


def test_read_video_in_fragments(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mp4", "libx264", sound="aac", fragmented=True).read_bytes()
    assert levels(clip_of(data).frames) == [0, 6, 12, 17, 23, 29]
    with pytest.warns(MediaWarning, match="cut short"):
        assert levels(clip_of(data[: 6 * len(data) // 10]).frames)[0] == 0


@pytest.mark.parametrize("count", [3, 4])
def test_read_video_of_pictures(count: int, tmp_path: Path) -> None:
    arrays = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(count)]
    path = tmp_path / "0.png"
    Image.fromarray(arrays[0]).save(path)
    clip = clip_of([path, Image.fromarray(arrays[1]), *arrays[2:]], fps=4)
    assert [frame.shape for frame in clip.frames] == [(20, 30, 3)] * 4
    assert [frame[0, 0, 0] for frame in clip.frames] == [0, 40, 80, min(120, 40 * (count - 1))]
    assert list(clip.times) == [0, 0.25, 0.5, 0.75]
    assert (clip.fps, clip.has_audio) == (4, False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "empty"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "frame 1 is 5 x 4 and the first is 4 x 4"),
        (["/no/such.png"], "No such file"),
        (WAV, "no moving pictures"),
        (b"RIFF" * 200, "cannot be decoded"),
        (b"\x1aE\xdf\xa3", "cut short"),
        (b"\0\0\0\x08ftyp", "cannot be decoded"),
        ("https://example.com/a.mp4", "download it first"),
    ],
)
def test_read_video_says_what_is_wrong(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        clip_of(source)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("asked", [{}, {"fps": 30.0}, {"num_frames": 8}, {"max_frames": 2}])
def test_a_clip_of_one_frame_shows_it_twice(name: str, asked: dict[str, Any], tmp_path: Path) -> None:
    clip = clip_of(video_file(tmp_path / name, "mpeg4", count=1), **asked)
    assert levels(clip.frames) == [0, 0]
    assert clip.times == (0, 0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_frames=29), "budget is 29"),
        (Budget(max_pixels=66 * 48 - 1), "66 x 48 pixels"),
        (Budget(max_seconds=2.5), "2.5 s"),
        (Budget(max_bytes=500), "budget is 500"),
    ],
)
def test_read_video_within_the_budget(name: str, budget: Budget, message: str, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, "libx264")
    with pytest.raises(MediaLimitError, match=message):
        clip_of(path, budget)
    exact = Budget(path.stat().st_size, 66 * 48, 30, 3.0)
    assert len(clip_of(path, exact).times) == 6
