"""Plain rotary positions. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: Tensor, inv_freq: Tensor, axes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angle = positions[axes].float().T.contiguous() * inv_freq  # [N, D / 2], rows side by side, as every layer reads them
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, D / 2]
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    turned = a * cos - b * sin, b * cos + a * sin
    y = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    return y.to(x.dtype)


def rotate_write(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> Tensor:
    for rows, blocks in ((rotate(k, cos, sin, False), k_cache), (v, v_cache)):
        blocks.view(-1, *blocks.shape[2:]).index_copy_(0, slots, rows)
    return rotate(q, cos, sin, False)
