"""Media files made when a test asks for them, small and with contents that are known."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from omni.encoders.clips import Clip, VideoSource, open_clip
from omni.encoders.frames import Pixels
from omni.encoders.sampling import Sampling
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Tell, tell_python

Wave = npt.NDArray[np.float32]


def speech_like(seconds: float, rate: int = 16000, seed: int = 0) -> Wave:
    """A gliding harmonic voice in syllables of changing loudness over faint noise, peak 0.5, float32 `[S]`."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.sum([np.sin(k * phase) / k for k in range(1, 20)], axis=0)
    syllables = np.arange(0, seconds + 0.2, 0.2)
    loudness = np.interp(t, syllables, rng.uniform(0, 1, len(syllables)) ** 3)
    wave = voice * loudness + 1e-3 * rng.standard_normal(len(t))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def sound_file(wave: npt.NDArray[np.floating], rate: int, kind: str, subtype: str | None = None) -> bytes:
    """A sound file by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def encoded_sound(wave: Wave, rate: int, kind: str, codec: str) -> bytes:
    """A mono sound file by FFmpeg."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        encode_sound(container, container.add_stream(codec, rate=rate, layout="mono"), wave, rate)
    return buffer.getvalue()


def encode_sound(container: Any, stream: Any, wave: Wave, rate: int) -> None:
    step = stream.codec_context.frame_size or 1024
    kind = stream.codec_context.format.name
    for at in range(0, len(wave), step):
        piece = wave[at : at + step]
        if not kind.startswith("flt"):
            bits = 32 if kind.startswith("s32") else 16
            piece = (piece.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(f"int{bits}")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), format=kind, layout="mono")
        frame.sample_rate, frame.pts = rate, at
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def grey_level(i: int) -> int:
    """What frame i of a test video shows."""
    return 20 + 7 * (i % 32)


def video_file(
    path: Path,
    codec: str,
    *,
    count: int = 30,
    size: tuple[int, int] = (66, 48),
    fps: int = 10,
    sound: str | None = None,
    sound_seconds: float | None = None,
    rotation: int = 0,
    fragmented: bool = False,
    frames: list[npt.NDArray[np.uint8]] | None = None,
) -> Path:
    """A video of `size` (width, height): grey frames, each of its own level, or `frames`; turned by `rotation` degrees."""
    width, height = size
    options = {"movflags": "frag_keyframe+empty_moov" if fragmented else "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size, stream.bit_rate = (
            width,
            height,
            "yuv420p",
            10,
            1_000_000,
        )
        track = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        if rotation:
            stream.set_display_rotation(rotation)
        if frames is None:
            frames = [np.full((height, width, 3), grey_level(i), np.uint8) for i in range(count)]
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if track:
            encode_sound(container, track, speech_like(sound_seconds or len(frames) / fps, 48000), 48000)
    return path


def film(
    path: Path,
    codec: str,
    times: Sequence[float],
    *,
    tick: Fraction = Fraction(1, 1000),
    last: float | None = None,
    **how: Any,
) -> Path:
    """A video of grey frames, each of its own level, that come at these seconds; the last stays for `last` seconds.

    how: "sound", a `(wave, times)` at 16 kHz whose pieces of 320 samples come at these seconds; "gop", frames from one
    keyframe to the next; "size", (width, height).
    """
    width, height = how.get("size", (64, 48))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, time_base=tick)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", how.get("gop", 12)
        stream.codec_context.time_base = tick
        if "sound" in how:
            track: Any = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        stamps = [round(time / tick) for time in times]
        ends = [*stamps[1:], stamps[-1] + round((last or 0) / tick)]
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), grey_level(i), np.uint8), format="rgb24")
            frame.pts, frame.time_base, frame.duration = stamp, tick, ends[i] - stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if "sound" in how:
            wave, places = how["sound"]
            for i, place in enumerate(places):
                piece = (wave[320 * i : 320 * (i + 1)] * 32767).astype(np.int16)
                sound = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 16000, round(place * 16000), Fraction(1, 16000)
                container.mux(track.encode(sound))
            container.mux(track.encode())
    return path


def clip_of(source: VideoSource, budget: Budget = DEFAULT_BUDGET, tell: Tell = tell_python, **asked: Any) -> Clip:
    """A clip with all its frames."""
    with open_clip(source, Sampling(**asked), budget, tell) as clip:
        return replace(clip, frames=list(clip.frames))  # type: ignore[arg-type]


def levels(frames: Iterable[Pixels]) -> list[int]:
    """Which frame of a test video each one is."""
    known = np.array([grey_level(i) for i in range(32)])
    return [int(np.abs(frame.mean() - known).argmin()) for frame in frames]


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants(height: int = 34, width: int = 46) -> npt.NDArray[np.uint8]:
    """Four colours, so that every turn and flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 20)
    pixels[: height // 2, width // 2 :] = (20, 240, 30)
    pixels[height // 2 :, : width // 2] = (10, 30, 230)
    pixels[height // 2 :, width // 2 :] = (240, 240, 240)
    return pixels


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]


PNG = picture_file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)))
WAV = sound_file(speech_like(2), 16000, "WAV", "PCM_16")
