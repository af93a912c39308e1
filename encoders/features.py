"""All that leaves this room, and what the towers take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A still image or a video, cut into patches.

    Attributes:
        patches: float32 `[t * h * w, channels * temporal * side * side]`, in merge-cell order.
        grid: (t, h, w) in patches.
        second_per_grid: seconds between two temporal grids; None for a still image.
        times: seconds of each temporal grid after the clip begins, where they are not `second_per_grid` apart.
        warnings: what was lost of it, a sentence each.
    """

    patches: Tensor
    grid: tuple[int, int, int]
    second_per_grid: float | None = None
    times: tuple[float, ...] | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def digest(self) -> bytes:
        """Of the pixels and their shape, not of the time between them."""
        return _digest(f"picture {self.grid}", self.patches)

    @property
    def num_bytes(self) -> int:
        return self.patches.nbytes

    @cached_property
    def grids(self) -> tuple[Picture, ...]:
        """Its temporal grids, each a picture of its own."""
        t, h, w = self.grid
        return tuple(Picture(p, (1, h, w), self.second_per_grid) for p in self.patches.chunk(t)) if t > 1 else (self,)


@dataclass(frozen=True)
class Sound:
    """A wave as log-mel frames.

    Attributes:
        mel: float32 `[mel bins, frames]`, no padding.
        warnings: what was lost of it, a sentence each.
    """

    mel: Tensor
    warnings: tuple[str, ...] = field(default=(), compare=False)
    _parts: dict[int, tuple[Sound, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_frames(self) -> int:
        return self.mel.shape[1]

    @cached_property
    def digest(self) -> bytes:
        return _digest("sound", self.mel)

    @property
    def num_bytes(self) -> int:
        return self.mel.nbytes

    def split(self, num_frames: int) -> tuple[Sound, ...]:
        """Its parts of so many frames, the last of fewer where they do not divide it; the same objects each time."""
        if num_frames not in self._parts:
            self._parts[num_frames] = tuple(Sound(mel) for mel in self.mel.split(num_frames, 1))
        return self._parts[num_frames]


Medium: TypeAlias = Picture | Sound


def _digest(kind: str, content: Tensor) -> bytes:
    digest = hashlib.blake2b(f"{kind} {tuple(content.shape)}".encode(), digest_size=16)
    digest.update(content.contiguous().numpy().data)
    return digest.digest()
