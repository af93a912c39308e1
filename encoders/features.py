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

    @cached_property
    def pieces(self) -> list[Picture]:
        """Its temporal grids, none of which the tower lets see another."""
        t, h, w = self.grid
        return [Picture(patches, (1, h, w), self.second_per_grid) for patches in self.patches.chunk(t)] if t > 1 else [self]


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

    def pieces(self, block_frames: int) -> list[Sound]:
        """Its blocks, none of which the tower lets see another; a last one too short for a row belongs to no block."""
        if block_frames not in self._pieces:
            self._pieces[block_frames] = self._cut(block_frames)
        return self._pieces[block_frames]

    @cached_property
    def _pieces(self) -> dict[int, list[Sound]]:
        return {}

    def _cut(self, block_frames: int) -> list[Sound]:
        blocks = [Sound(mel) for mel in self.mel.split(block_frames, 1)]
        return blocks if num_audio_tokens(blocks[-1].mel.shape[1]) > 0 else blocks[:-1]


def num_audio_tokens(frames: int) -> int:
    """Rows that the audio tower makes of so many mel frames: the second convolution halves them, and so does a pooling."""
    halved = (frames - 1) // 2 + 1
    return (halved - 2) // 2 + 1


def _digest(kind: str, content: Tensor) -> bytes:
    digest = hashlib.blake2b(f"{kind} {tuple(content.shape)}".encode(), digest_size=16)
    digest.update(content.contiguous().numpy().data)
    return digest.digest()
