"""Pictures, sounds and clips, sound ones and hostile ones, made in memory."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def picture(kind: str = "PNG", width: int = 40, height: int = 30, colour: int = 200, frames: int = 1) -> bytes:
    out = io.BytesIO()
    first, *more = (Image.new("RGB", (width, height), (colour, i, 0)) for i in range(frames))
    first.save(out, kind, **({"save_all": True, "append_images": more} if more else {}))
    return out.getvalue()


def sound(
    container: str = "wav", codec: str = "pcm_s16le", seconds: float = 0.3, rate: int = 24000, level: float = 0.1
) -> bytes:
    """A tone; `level` 0 is silence, which shrinks to next to nothing."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        if codec == "libopus":
            stream.bit_rate = 6000
        piece = rate // 10
        wave = (level * 32767 * np.sin(2 * np.pi * 440 * np.arange(piece) / rate)).astype(np.int16)
        for at in range(round(seconds * 10)):
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, at * piece
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def clip(
    container: str = "mp4", codec: str = "mpeg4", frames: int = 6, fps: int = 5, size: int = 48, tone: bool = False
) -> bytes:
    """Frames of one colour, `tone` with sound beside them."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(
            codec, rate=fps, width=size, height=size, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
        )
        heard = file.add_stream("aac", rate=24000, layout="mono") if tone else None
        frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 90, np.uint8), format="rgb24")
        for at in range(frames):
            frame.pts, frame.time_base = at, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if heard:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), format="fltp", layout="mono")
            quiet.sample_rate, quiet.pts = 24000, 0
            file.mux(heard.encode(quiet))
            file.mux(heard.encode(None))
    return out.getvalue()


def vast_picture(width: int = 60000, height: int = 60000) -> bytes:
    """A PNG of few bytes that would be gigabytes: its rows are zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(min(height, 64))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def boastful_clip(frames: int = 10**9) -> bytes:
    """An MP4 whose table of samples claims so many frames."""
    data = bytearray(clip())
    at = data.index(b"stts")  # version and flags, count of entries, then (frames, ticks of each)
    data[at + 12 : at + 16] = struct.pack(">I", frames)
    at = data.index(b"stsz")  # version and flags, one size for all, count
    data[at + 8 : at + 16] = struct.pack(">II", 1, frames)
    return bytes(data)
