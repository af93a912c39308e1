"""What packets say counts, not what headers do; and what is not used does not matter."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omni.encoders.sources import DEFAULT_BUDGET, Budget, opened
from omni.encoders.track import Track, read_track
from omni.errors import MediaError, MediaLimitError
from tests.encoders.samples import clip_of, film, levels, speech_like, video_file


def track_of(source: Path | bytes) -> Track:
    told: list[str] = []
    with opened(source, DEFAULT_BUDGET) as media:
        track = read_track(media, DEFAULT_BUDGET, told.append)
    assert told == []
    return track


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "ts", "mov"])
@pytest.mark.parametrize("rate", [Fraction(10), Fraction(30000, 1001), Fraction(24000, 1001)])
def test_a_constant_rate_is_known_through_rounding(suffix: str, rate: Fraction, tmp_path: Path) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    times = [float(i / rate) for i in range(40)]
    track = track_of(film(tmp_path / f"a.{suffix}", codec, times, last=float(1 / rate)))
    assert track.rate == pytest.approx(float(rate), rel=2e-3)
    assert track.hold == pytest.approx(float(1 / rate), rel=2e-3)


@pytest.mark.parametrize(
    "times",
    [
        [0, 4.0, 4.1],
        [0, 0.1, 0.2, 0.35, 0.4, 0.5],  # one late frame
        [0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7],  # one frame was dropped
        [0, 4.0],
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_varying_rate_is_none(times: list[float], suffix: str, tmp_path: Path) -> None:
    track = track_of(film(tmp_path / f"a.{suffix}", "libx264", times, last=1.9))
    assert track.rate is None
    assert track.seconds.tolist() == pytest.approx(times, abs=1e-3)
    assert track.hold == pytest.approx(min(1.9, max(np.diff(times))) if suffix == "mkv" else 1.9, abs=0.01)


def test_a_screen_that_came_to_rest_has_no_rate(tmp_path: Path) -> None:
    track = track_of(film(tmp_path / "a.mp4", "libx264", [0, 0.1, 0.2, 0.3], last=3.0))
    assert track.rate is None
    assert track.end == pytest.approx(3.3)


@pytest.mark.parametrize("box", [b"mvhd", b"mdhd", b"tkhd"])
def test_a_length_that_is_wrong_does_not_matter(box: bytes, tmp_path: Path) -> None:
    data = bytearray(video_file(tmp_path / "a.mp4", "libx264").read_bytes())
    at = data.index(box) + 4
    at += 20 if box == b"tkhd" else 16
    struct.pack_into(">I", data, at, 2**31 - 1)
    clip = clip_of(bytes(data))
    assert levels(clip.frames) == [0, 6, 12, 17, 23, 29]


def test_a_rate_that_is_wrong_does_not_matter(tmp_path: Path) -> None:
    """Matroska states the length of a frame; here a hundredth of the true one."""
    data = video_file(tmp_path / "a.mkv", "libx264").read_bytes()
    at = data.index(b"\x23\xe3\x83")  # DefaultDuration
    size = data[at + 3] & 0x7F
    assert int.from_bytes(data[at + 4 : at + 4 + size]) == 100_000_000
    wrong = data[: at + 4] + (1_000_000).to_bytes(size) + data[at + 4 + size :]
    assert levels(clip_of(wrong).frames) == [0, 6, 12, 17, 23, 29]


def test_a_clip_that_lasts_too_long_by_its_packets(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", "libx264", [0, 4.0, 4.1], last=1.9)
    with pytest.raises(MediaLimitError, match=r"lasts 6\.0 s and the budget is 5 s"):
        clip_of(path, Budget(max_seconds=5))


@pytest.mark.parametrize(("late", "origin", "first"), [(0.0, 0.0, 0.0), (1.5, 0.0, 0.0), (-1.5, -1.5, 1.5)])
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_picture_and_sound_share_a_time_line(late: float, origin: float, first: float, suffix: str, tmp_path: Path) -> None:
    """late: by how much the sound begins after the picture."""
    path, begin = tmp_path / f"a.{suffix}", 2.0
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt, video.max_b_frames = 64, 48, "yuv420p", 0
        sound: Any = container.add_stream("mp2", rate=16000, layout="mono")
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(10 * begin) + i, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        wave = (speech_like(2) * 32767).astype(np.int16)
        for at in range(0, len(wave) - 1151, 1152):
            piece = av.AudioFrame.from_ndarray(wave[None, at : at + 1152], format="s16", layout="mono")
            piece.sample_rate, piece.pts = 16000, round(16000 * (begin + late)) + at
            piece.time_base = Fraction(1, 16000)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    track = track_of(path)
    assert track.has_audio
    assert track.seconds[0] == pytest.approx(first, abs=0.05)
    assert track.stamps[0] * track.tick - track.origin == pytest.approx(first, abs=0.05)
    if suffix == "mkv":
        assert track.origin == pytest.approx(begin + origin, abs=0.05)


def test_a_track_of_an_unknown_kind_is_no_sound(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mov", "libx264", sound="pcm_s16le").read_bytes()
    assert data.count(b"sowt") == 1
    assert track_of(data).has_audio
    assert not track_of(data.replace(b"sowt", b"xapc")).has_audio  # as phones have one more
    with pytest.raises(MediaError, match="coded in a way"):
        clip_of(data.replace(b"avc1", b"xvc1"))
