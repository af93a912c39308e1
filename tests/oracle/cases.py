"""What the parity table asks: messages of every kind, made from numbers."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omni.prompt.reader import Message
from tests.encoders.samples import video_file


def _wave(seconds: float, seed: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """A sweep with noise, at 16 kHz."""
    t = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(seed).normal(size=t.shape)
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.02 * noise).astype(np.float32), 16000


def _image(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _user(*parts: Message) -> list[Message]:
    return [{"role": "user", "content": list(parts)}]


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _picture(width: int, height: int, seed: int = 0) -> Message:
    return {"type": "image", "image": _image(width, height, seed)}


def _sound(seconds: float, seed: int = 0) -> Message:
    return {"type": "audio", "audio": _wave(seconds, seed)}


def _clip(frames: int, width: int, height: int, **how: object) -> Message:
    return {"type": "video", "video": [_image(width, height, i) for i in range(frames)], "max_pixels": 128 * 784, **how}


@cache
def cases() -> dict[str, list[list[Message]]]:
    """Messages of each case; one list of messages for each row of its batch."""
    folder = Path(tempfile.mkdtemp(prefix="omni-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    film = video_file(folder / "film.mp4", "h264", count=43, size=(112, 112), fps=10, sound="aac")
    # of 1 s and 42 cells wide: the sound, which ends last, ends before the widest column, so talker and thinker part
    wide = video_file(folder / "wide.mp4", "h264", count=10, size=(1200, 56), fps=10, sound="aac")
    return {
        "text": [_user(_text("Say hello."))],
        "image": [_user(_picture(252, 140), _text("What is this?"))],
        "several images": [_user(_picture(252, 140), _picture(84, 300, 1), _text("And"), _picture(60, 60, 2), _text("?"))],
        "video": [_user(_clip(6, 112, 168), _text("What moves?"))],
        "wide video": [_user(_clip(4, 1200, 56), _text("What moves?"))],
        "audio": [_user(_sound(5.23), _text("What do you hear?"))],
        "several audios": [_user(_sound(1.0), _text("then"), _sound(2.71, 1), _text("?"))],
        "image and audio": [_user(_picture(140, 140), _sound(1.5))],
        "wide video with sound": [_user({"type": "video", "video": wide, "max_pixels": 128 * 784}, _text("What?"))],
        "audio in video": [_user({"type": "video", "video": film, "max_pixels": 128 * 784}, _text("What happens?"))],
        "batch with padding": [_user(_text("Say hello.")), _user(_text("Say hello to all of us, please."))],
    }
