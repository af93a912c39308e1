"""Clips that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omni.encoders.clips import frame_indices, read_video
from omni.encoders.sources import Budget
from omni.errors import MediaError, MediaLimitError, OptionError
from tests.encoders.samples import (
    WAV,
    data_url,
    grey_level,
    quadrants,
    video_file,
)

VIDEOS = [
    ("a.mp4", "libx264", "aac"), ("b.mp4", "mpeg4", None), ("c.mkv", "libx264", "libopus"), ("d.webm", "libvpx", None),
    ("e.webm", "libvpx-vp9", "libopus"), ("f.avi", "mpeg4", None),
]  # fmt: skip


def levels(frames: torch.Tensor) -> list[int]:
    """Which frame of a test video each one is."""
    known = torch.tensor([grey_level(i) for i in range(32)])
    return [int((frame.float().mean() - known).abs().argmin()) for frame in frames]


@pytest.mark.parametrize(
    ("total", "rate", "options", "want"),
    [
        (30, 10, {}, [0, 6, 12, 17, 23, 29]),  # 3 s at 2 a second; steps of 5.8
        (250, 25, {"num_frames": 2}, [0, 249]),
        (10, 10, {}, [0, 3, 6, 9]),  # 2 frames become min_frames
        (3, 10, {}, [0, 2]),  # no more than there are, and even
        (100, 10, {"max_frames": 5}, [0, 33, 66, 99]),
        (10, 10, {"min_frames": 5}, [0, 2, 4, 5, 7, 9]),  # min rounds up to 6
        (9, 1, {"num_frames": 3}, [0, 3, 5, 8]),  # 1.5 rounds to the even 2; 2.67 and 5.33
        (6, 1, {"num_frames": 5, "fps": 9}, [0, 2, 3, 5]),  # 2.5 rounds to the even 2, so 4: 1.67 and 3.33
        (5, 1, {"num_frames": 8}, [0, 1, 2, 3, 4]),  # at most all
        (12, 1, {"num_frames": 4, "start": 1, "end": 8.9}, [1, 3, 6, 8]),  # 3.33 and 5.67
        (6, 1, {"num_frames": 2, "start": 0.5}, [1, 5]),
        (11, 1, {"num_frames": 4, "end": 99}, [0, 3, 7, 10]),
        (2, 30, {}, [0, 1]),
    ],
)
def test_frame_indices_by_hand(total: int, rate: float, options: dict[str, Any], want: list[int]) -> None:
    assert frame_indices(total, rate, **options) == want


def test_frame_indices_round_half_to_even() -> None:
    assert frame_indices(6, 1, num_frames=3) == [0, 2, 3, 5]
    assert frame_indices(14, 1, num_frames=3, start=0) == [0, 4, 9, 13]
    # 0, 7.5, ... is not reachable with two ends; an inner half is: 0, 2.5, 5, ... of eleven frames in five steps
    assert torch.linspace(0, 5, 3).round().tolist() == [0, 2, 5]


@pytest.mark.parametrize("options", [{}, {"num_frames": 4}, {"start": 0.7}])
def test_frame_indices_needs_two(options: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="at least 2"):
        frame_indices(1, 1, **options)


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS)
def test_read_video(name: str, codec: str, sound: str | None, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, codec, sound=sound)
    for source in (path, str(path), path.read_bytes(), data_url(path.read_bytes(), "video/mp4")):
        clip = read_video(source)
        assert clip.frames.dtype == torch.uint8
        assert clip.frames.shape == (6, 3, 48, 66)
        assert levels(clip.frames) == [0, 6, 12, 17, 23, 29]
        assert clip.times == pytest.approx([0, 0.6, 1.2, 1.7, 2.3, 2.9], abs=1e-3)
        assert clip.fps == pytest.approx(2.0)
        assert clip.has_audio == (sound is not None)


def test_read_video_of_a_part(tmp_path: Path) -> None:
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 64))
    clip = read_video(path, start=0.55, end=1.5, num_frames=4)
    assert levels(clip.frames) == [6, 9, 12, 15]
    assert clip.times == pytest.approx([0.6, 0.9, 1.2, 1.5])
    assert clip.fps == pytest.approx(4.0)
    assert levels(read_video(path, fps=10).frames) == list(range(30))
    with pytest.raises(MediaError, match=r"a\.mp4: 0 frames"):
        read_video(path, start=2, end=1)


@pytest.mark.parametrize(("stated", "end"), [(9, None), (60, None), (60, 9.0), (40, 2.0)])
def test_read_video_counts_where_the_container_lies(stated: int, end: float | None, tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.avi", "mpeg4").read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert struct.unpack("<I", data[at : at + 4]) == (30,)
    clip = read_video(data[:at] + struct.pack("<I", stated) + data[at + 4 :], num_frames=4, end=end)
    assert levels(clip.frames) == ([0, 7, 13, 20] if end == 2.0 else [0, 10, 19, 29])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_read_video_is_upright(degrees: int, tmp_path: Path) -> None:
    pixels = quadrants(48, 64)
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 48), frames=[pixels] * 4, rotation=degrees)
    want = np.rot90(pixels, degrees // 90)  # counter-clockwise, as FFmpeg has it
    frame = read_video(path).frames[0].permute(1, 2, 0).numpy()
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
    frame = read_video(turned).frames[0].permute(1, 2, 0).numpy()
    want = pixels[:: flip[0], :: flip[1]]
    assert np.abs(frame[6::12, 6::12].astype(int) - want[6::12, 6::12]).max() < 12


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS[:5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_read_video_cut_short(name: str, codec: str, sound: str | None, share: float, tmp_path: Path) -> None:
    data = video_file(tmp_path / name, codec, sound=sound).read_bytes()
    with pytest.raises(MediaError, match="cut short"):
        read_video(data[: int(share * len(data))])


def test_read_video_in_fragments(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mp4", "libx264", sound="aac", fragmented=True).read_bytes()
    assert levels(read_video(data).frames) == [0, 6, 12, 17, 23, 29]
    with pytest.raises(MediaError, match="cut short"):
        read_video(data[: 6 * len(data) // 10])


def test_read_video_damaged(tmp_path: Path) -> None:
    data = bytearray(video_file(tmp_path / "a.mp4", "libx264").read_bytes())
    at = data.index(b"mdat") + 4
    data[at + 700 :] = bytes(len(data) - at - 700)
    with pytest.raises(MediaError, match=r"cannot be decoded|damaged"):
        read_video(bytes(data))


@pytest.mark.parametrize("count", [3, 4])
def test_read_video_of_pictures(count: int, tmp_path: Path) -> None:
    arrays = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(count)]
    path = tmp_path / "0.png"
    Image.fromarray(arrays[0]).save(path)
    clip = read_video([path, Image.fromarray(arrays[1]), *arrays[2:]], fps=4)
    assert clip.frames.shape == (4, 3, 20, 30)
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 40, 80, min(120, 40 * (count - 1))]
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
        read_video(source)


def test_read_video_of_one_frame(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.mp4: 1 frames .* at least 2"):
        read_video(video_file(tmp_path / "a.mp4", "libx264", count=1))


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1.0}, {"num_frames": 1}, {"max_frames": 1}, {"min_frames": 0}])
def test_read_video_refuses_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        read_video("never opened", **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_frames=29), "budget is 29"),
        (Budget(max_pixels=66 * 48 - 1), "66 x 48 pixels"),
        (Budget(max_seconds=2.5), "2.5 s"),
        (Budget(max_clip_bytes=6 * 3 * 66 * 48 - 1), "6 frames of 66 x 48"),
        (Budget(max_bytes=500), "budget is 500"),
    ],
)
def test_read_video_within_the_budget(name: str, budget: Budget, message: str, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, "libx264")
    with pytest.raises(MediaLimitError, match=message):
        read_video(path, budget=budget)
    exact = Budget(path.stat().st_size, 66 * 48, 30, 3.0, 6 * 3 * 66 * 48)
    assert len(read_video(path, budget=exact).times) == 6
