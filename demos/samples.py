"""A picture, a clip with sound and a question (a buzz, no words), all from formulas, for demos and the README's examples."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

RATE = 16000


def write_samples(folder: Path) -> None:
    """Write `cat.jpg`, `street.mp4` (2 s) and `question.wav` (1.5 s)."""
    Image.fromarray(_frame(0.0, 168, 224)).save(folder / "cat.jpg")
    soundfile.write(folder / "question.wav", _voice(1.5), RATE)
    _write_clip(folder / "street.mp4", seconds=2.0, fps=10)


def _frame(time: float, height: int, width: int) -> NDArray[np.uint8]:
    """Colours that drift, and a disc that crosses them; uint8 `[height, width, 3]`."""
    y, x = np.mgrid[0:height, 0:width]
    hue = np.stack([np.sin(x / 23 + time + c) + np.cos(y / 31 - time * c) for c in range(3)], -1)
    disc = (x - width * (0.2 + 0.3 * time)) ** 2 + (y - height / 2) ** 2 < (height / 6) ** 2
    return np.where(disc[..., None], 255, 127 + 60 * hue).astype(np.uint8)


def _voice(seconds: float) -> NDArray[np.float32]:
    """A buzz of gliding pitch through two moving resonances, `[S]`."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    formants = (500 + 200 * np.sin(9 * t), 1500 + 600 * np.sin(5 * t))
    wave = np.zeros_like(t)
    for k in range(1, 30):
        loud = sum(np.exp(-(((k * 120 - f) / 250) ** 2)) for f in formants)
        wave += loud * np.sin(k * pitch)
    wave *= np.sin(2 * np.pi * t) ** 2
    out: NDArray[np.float32] = (0.5 * wave / np.abs(wave).max()).astype(np.float32)
    return out


def _write_clip(path: Path, *, seconds: float, fps: int) -> None:
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("h264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = 224, 168, "yuv420p"
        sound = container.add_stream("aac", rate=RATE)
        sound.layout = "mono"
        for i in range(int(seconds * fps)):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(_frame(i / fps, 168, 224), format="rgb24")))
        container.mux(pictures.encode())
        wave = av.AudioFrame.from_ndarray(_voice(seconds)[None], format="fltp", layout="mono")
        wave.rate = RATE
        container.mux(sound.encode(wave))
        container.mux(sound.encode())
