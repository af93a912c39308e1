"""All that leaves this room, and what the towers take."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Sound:
    """A wave as log-mel frames.

    Attributes:
        mel: float32 `[mel bins, frames]`, 100 frames a second, no padding.
    """

    mel: Tensor
