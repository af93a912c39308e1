"""What the bundled model says of clips as people send them: their time is what their containers say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from demos.small_model.world import draw
from demos.small_model.world.scenes import Actor, Clip, Thing
from omni import Omni

RED, SQUARE = Thing("red", "circle", 0, 1.5, 1.5, 0.8), Thing("purple", "square", 8, 2.4, 0.6, 0.6)
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(progress=False)


def shots(clip: Clip, times: list[float]) -> Iterator[Pixels]:
    """The clip at these seconds."""
    fps = 20
    drawn = draw.frames(clip, fps, (84, 84))
    yield from (drawn[min(len(drawn) - 1, round(time * fps))] for time in times)


def write(
    path: Path,
    codec: str,
    frames: Iterator[Pixels],
    times: list[float],
    sound: tuple[Any, float] | None = None,
    live: bool = False,
) -> Path:
    """sound: a wave at 16 kHz and when it begins."""
    with av.open(str(path), "w", options={"live": "1"} if live else {}) as container:
        video: Any = container.add_stream(codec, rate=30)
        (video.width, video.height), video.pix_fmt, video.bit_rate = (84, 84), "yuv420p", 400_000
        video.codec_context.time_base = Fraction(1, 1000)
        track: Any = (
            container.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=16000, layout="mono") if sound else None
        )
        packets = []
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            packets += video.encode(frame)
        container.mux([*packets, *video.encode()])
        if sound:
            wave, begin = sound
            size = track.codec_context.frame_size
            for at in range(0, len(wave), size):
                piece = wave[at : at + size]
                kind = track.codec_context.format.name
                samples = piece if kind.startswith("flt") else (piece * 32767).astype(np.int16)
                made = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format=kind, layout="mono")
                made.sample_rate, made.time_base = 16000, Fraction(1, 16000)
                made.pts = at + round(16000 * begin)
                container.mux(track.encode(made))
            container.mux(track.encode())
    return path


def ask(omni: Omni, path: Path, question: str, **how: Any) -> str:
    part = {"type": "video", "video": path, **how}
    return omni.generate([{"role": "user", "content": [part, {"type": "text", "text": question}]}], max_tokens=30).text


def camera(seconds: float) -> list[float]:
    """As browsers record: sixty a second, of which many are dropped."""
    rng = np.random.default_rng(0)
    return [0.0, *(i / 60 for i in range(1, round(60 * seconds)) if rng.random() < 0.5)]


def screen(seconds: float) -> list[float]:
    """As screens are recorded: a frame where something changes."""
    return [0.0, *np.arange(seconds, seconds + 1, 0.05).round(3).tolist()]


@pytest.mark.parametrize(
    ("name", "codec", "live"), [("a.webm", "libvpx", True), ("b.webm", "libvpx", False), ("c.mp4", "libx264", False)]
)
@pytest.mark.parametrize(("when", "word"), [(2, "two"), (4, "four")])
@pytest.mark.parametrize("static", [True, False])
def test_when_it_appears(
    omni: Omni, name: str, codec: str, live: bool, when: int, word: str, static: bool, tmp_path: Path
) -> None:
    clip = Clip(84, 84, "white", 6, (Actor(RED, shown=when), Actor(SQUARE)))
    times = screen(when) if static else camera(when + 2)
    path = write(tmp_path / name, codec, shots(clip, times), times, live=live)
    assert ask(omni, path, "When does the red circle appear?") == f"At second {word}."


@pytest.mark.parametrize(("begin", "beep", "word"), [(2.0, 1.0, "three"), (1.0, 1.0, "two"), (0.0, 2.0, "two")])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_when_it_beeps(omni: Omni, name: str, begin: float, beep: float, word: str, tmp_path: Path) -> None:
    """A sound track that begins late."""
    times = [i / 10 for i in range(50)]
    wave = np.zeros(round(16000 * (5 - begin)), np.float32)
    at = round(16000 * beep)
    wave[at : at + 8000] = 0.5 * np.sin(2 * np.pi * 880 * np.arange(8000) / 16000)
    clip = Clip(84, 84, "white", 5, (Actor(SQUARE),))
    path = write(tmp_path / name, "libx264", shots(clip, times), times, (wave, begin))
    assert ask(omni, path, "When do you hear the beep?") == f"At second {word}."


def test_a_clip_of_one_frame_is_seen(omni: Omni, tmp_path: Path) -> None:
    clip = Clip(84, 84, "white", 1, (Actor(RED),))
    path = write(tmp_path / "a.mp4", "libx264", shots(clip, [0.0]), [0.0])
    assert ask(omni, path, "What is in the middle?") == "A red circle."


HOUR = """
import sys
from pathlib import Path
from omni import Omni
def memory(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
omni = Omni.load(progress=False)
omni.generate([{"role": "user", "content": "Hello"}], max_tokens=1)
Path("/proc/self/clear_refs").write_text("5")  # the peak of loading is none of reading
before = memory("VmRSS")
prompt = omni.runtime.reader.read([{"role": "user", "content": [{"type": "video", "video": sys.argv[1]}]}])
print(before, memory("VmHWM"), prompt.pictures[0].grid[0])
"""


@pytest.mark.slow
def test_an_hour_of_4k_takes_600_mb_at_most(tmp_path: Path) -> None:
    path = tmp_path / "hour.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt, video.gop_size, video.max_b_frames = 3840, 2160, "yuv420p", 60, 0
        frames = [av.VideoFrame(3840, 2160, "yuv420p") for _ in range(60)]
        minute = []
        for i, frame in enumerate(frames):
            for plane in frame.planes:
                plane.update(bytes([40 + i // 9 * 20]) * plane.buffer_size)
            minute += [bytes(packet) for packet in video.encode(frame)]
        minute += [bytes(packet) for packet in video.encode()]
        for i in range(3600):
            packet = av.Packet(minute[i % 60])
            packet.pts, packet.dts, packet.duration, packet.time_base = i, i, 1, Fraction(1)
            packet.stream, packet.is_keyframe = video, i % 60 == 0
            container.mux(packet)
    done = subprocess.run([sys.executable, "-c", HOUR, str(path)], check=True, capture_output=True, text=True)
    before, after, grids = (int(word) for word in done.stdout.split())
    assert grids == 384
    assert after - before < 600 * 1024, f"{(after - before) // 1024} MB"
    print((after - before) // 1024, "MB")
