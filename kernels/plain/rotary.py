"""Plain rotary positions. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: Tensor, inv_freq: Tensor, axes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angle = positions[axes].float().T * inv_freq  # [N, D / 2]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, D / 2]
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)
