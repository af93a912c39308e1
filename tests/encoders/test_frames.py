"""Frames are the same however they are reached, and damage takes none but its own."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omni.encoders import frames
from omni.encoders.frames import Pixels, decoded
from omni.encoders.sources import DEFAULT_BUDGET, opened
from omni.encoders.track import packets, read_track
from omni.errors import MediaError
from tests.encoders.samples import clip_of, film, levels, video_file

KINDS = [
    ("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.mp4", "libx265"), ("d.webm", "libvpx-vp9"), ("e.webm", "libvpx"),
    ("f.ts", "libx264"), ("g.avi", "mpeg4"), ("h.avi", "libx264"), ("i.ts", "mpeg2video"), ("j.mp4", "mpeg4"),
    ("k.mkv", "ffv1"), ("l.flv", "flv"),
]  # fmt: skip
SEEKS = ("mp4", "mkv", "webm", "mov")


def picture(i: int) -> Pixels:
    """Something that moves, so that no frame is as another."""
    y, x = np.mgrid[:96, :128]
    red = 40 + 30 * np.sin((x + 3 * i) / 9) + 20 * np.cos((y - i) / 7)
    return np.stack([red, red + grey(i), 255 - red], 2).astype(np.uint8)


def grey(i: int) -> int:
    return 20 + (37 * i) % 120


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    pictures = [picture(i) for i in range(150)]
    return {name: video_file(folder / name, codec, size=(128, 96), fps=25, frames=pictures) for name, codec in KINDS}


def read(path: Path, wanted: list[int], jumps: bool = True) -> list[Pixels]:
    told: list[str] = []
    with opened(path, DEFAULT_BUDGET) as media:
        track = read_track(media, DEFAULT_BUDGET, told.append)
        track = track if jumps else replace(track, keys=track.keys[:0])
        found = list(decoded(media, track, wanted, DEFAULT_BUDGET, told.append))
    assert told == []
    return found


@pytest.mark.parametrize("name", [name for name, _ in KINDS])
@pytest.mark.parametrize("wanted", [[0, 37, 38, 38, 90, 149], [149], [60, 61, 140], [3, 33, 63, 93, 123]])
def test_a_jump_leads_where_decoding_all_does(
    name: str, wanted: list[int], films: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_frames = read(films[name], list(range(150)), jumps=False)
    num_packets = 0

    def counted(container: Any, stream: Any) -> Iterator[Any]:
        nonlocal num_packets
        for packet in packets(container, stream):
            num_packets += 1
            yield packet

    monkeypatch.setattr(frames, "packets", counted)
    found = read(films[name], wanted)
    assert len(found) == len(wanted)
    for i, pixels in zip(wanted, found, strict=True):
        assert np.array_equal(pixels, all_frames[i])
    assert (num_packets < 110) == name.endswith(SEEKS), num_packets


def test_a_frame_that_comes_again_is_the_same_object(films: dict[str, Path]) -> None:
    a, b, c = read(films["a.mp4"], [5, 5, 6])
    assert a is b
    assert b is not c


def damaged(path: Path, which: dict[int, bytes | None]) -> bytes:
    """The clip with some of its packets filled with bytes, or left out."""
    out = io.BytesIO()
    with av.open(str(path)) as source, av.open(out, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if i in which and which[i] is None:
                continue
            if i in which:
                new = av.Packet((which[i] or b"") * packet.size)
                new.pts, new.dts, new.time_base, new.is_keyframe = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    packet.is_keyframe,
                )
                packet = new
            packet.stream = stream
            target.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libvpx-vp9"), ("b.mkv", "ffv1"), ("c.mkv", "libvpx")])
def test_damaged_packets_are_passed_over_and_told(name: str, codec: str, tmp_path: Path) -> None:
    """Each frame is a keyframe: none takes others along."""
    path = film(tmp_path / name, codec, [i / 10 for i in range(30)], last=0.1, gop=1)
    told: list[str] = []
    clip = clip_of(damaged(path, {0: b"\xff", 7: b"\xff", 8: b"\xff"}), tell=told.append, fps=10)
    assert levels(clip.frames) == [1, *range(1, 7), 6, 6, *range(9, 30)]
    assert len(told) == 1
    assert told[0].endswith(": 3 of 30 frames could not be decoded; those around them are shown instead")


def test_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", "ffv1", [i / 10 for i in range(30)], last=0.1)
    with pytest.raises(MediaError, match="none of its 30 frames can be decoded"):
        clip_of(damaged(path, dict.fromkeys(range(30), b"\xff")))


def test_a_clip_whose_end_is_damaged(tmp_path: Path) -> None:
    data = bytearray(video_file(tmp_path / "a.mp4", "libx264").read_bytes())
    at = data.index(b"mdat") + 4
    keep = 2 * (len(data) - at) // 3
    data[at + keep :] = bytes(len(data) - at - keep)
    told: list[str] = []
    seen = levels(clip_of(bytes(data), tell=told.append, fps=10).frames)
    assert seen == sorted(seen)
    assert "of 30 frames could not be decoded" in told[0]


def test_no_torch_is_needed_to_decode(films: dict[str, Path]) -> None:
    """So that a process without it may."""
    code = (
        "import sys; from omni.encoders.clips import open_clip\n"
        f"with open_clip({str(films['a.mp4'])!r}) as clip: assert sum(1 for _ in clip.frames) == len(clip.times)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
