"""All that leaves this room, and what the towers take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A still image or a video, cut into patches.

    Attributes:
        patches: float32 `[t * h * w, channels * temporal * side * side]`, in merge-cell order.
        grid: (t, h, w) in patches.
        second_per_grid: seconds between two temporal grids; None for a still image.
    """

    patches: Tensor
    grid: tuple[int, int, int]
    second_per_grid: float | None = None

    @cached_property
    def digest(self) -> bytes:
        """Of the pixels and their shape, not of the time between them."""
        return _digest(f"picture {self.grid}", self.patches)


@dataclass(frozen=True)
class Sound:
    """A wave as log-mel frames.

    Attributes:
        mel: float32 `[mel bins, frames]`, 100 frames a second, no padding.
    """

    mel: Tensor

    @cached_property
    def digest(self) -> bytes:
        return _digest("sound", self.mel)


def _digest(kind: str, content: Tensor) -> bytes:
    digest = hashlib.blake2b(f"{kind} {tuple(content.shape)}".encode(), digest_size=16)
    digest.update(content.contiguous().numpy().data)
    return digest.digest()
