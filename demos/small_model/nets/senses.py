"""Pictures, clips and sounds of the world as the towers read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.small_model.nets import sizes
from demos.small_model.speech.espeak import Unit
from demos.small_model.world import draw, scenes
from omni.encoders.config import MelConfig
from omni.encoders.mel import log_mel
from omni.encoders.pixels import smart_resize

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MEL = MelConfig(sampling_rate=16000, n_fft=400, hop_length=160, feature_size=80, chunk_length=300)
SIDE, CELL = 14, 28
Grid = tuple[int, int]


def picture_size(width: int, height: int) -> tuple[int, int]:
    """(height, width) of a still picture before it is cut."""
    return smart_resize(height, width, CELL, sizes.MIN_PIXELS, sizes.MAX_PIXELS)


def frame_size(width: int, height: int) -> tuple[int, int]:
    """(height, width) of a frame of video."""
    return smart_resize(height, width, CELL, sizes.FRAME_MIN_PIXELS, sizes.FRAME_MAX_PIXELS)


def patches(frames: Tensor) -> Tensor:
    """uint8 `[B, 2, h, w, 3]` to patches `[B, h w / 196, 1176]` in cell order."""
    b, t, h, w, _ = frames.shape
    mean, std = (torch.tensor(x, device=frames.device) * 255 for x in (MEAN, STD))
    x = ((frames.float() - mean) / std).view(b, t, h // CELL, 2, SIDE, w // CELL, 2, SIDE, 3)
    return x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(b, -1, 3 * t * SIDE * SIDE)


def see(scene: scenes.Scene, size: tuple[int, int], rng: Random) -> NDArray[np.uint8]:
    """A scene at (height, width), a little different each time."""
    return draw.picture(scene, (size[1], size[0]), rng)


def watch(clip: scenes.Clip, size: tuple[int, int], rng: Random) -> NDArray[np.uint8]:
    """The frames that a reader takes of a clip's file, two for each second: uint8 `[2 seconds, h, w, 3]`.

    They are spread evenly from the file's first frame to its last, which is a little before its end.
    """
    count = 2 * clip.seconds
    last = clip.seconds - 1 / rng.choice((2, 6, 8, 10, 12, 15, 24, 30))
    return draw.frames(clip, (count - 1) / last, (size[1], size[0]), rng)[:count]


def mel(wave: NDArray[np.float32]) -> Tensor:
    """`[80, frames]` of samples at 16 kHz."""
    return log_mel(wave, MEL).mel


def faster(wave: NDArray[np.float32], ratio: float) -> NDArray[np.float32]:
    """`ratio` times faster and higher."""
    at = np.arange(0, len(wave) - 1, ratio)
    return np.interp(at, np.arange(len(wave)), wave).astype(np.float32)


@dataclass(frozen=True)
class Heard:
    """A sound `[80, frames]` and the words in it."""

    mel: Tensor
    units: list[Unit]


def on_canvas(scene: scenes.Scene, canvas: tuple[int, int]) -> scenes.Scene:
    return replace(scene, width=canvas[0], height=canvas[1])
