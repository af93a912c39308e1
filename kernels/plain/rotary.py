"""Plain rotary positions. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.plain.pages import write_pages


def rotary_table(positions: Tensor, inv_freq: Tensor, axes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angle = positions[axes].float().T.contiguous() * inv_freq  # [N, D / 2], rows side by side, as every layer reads them
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, D / 2]
    if interleaved:
        wide = x.to(torch.promote_types(x.dtype, cos.dtype)).contiguous()
        if wide.dtype not in (torch.float32, torch.float64):  # there is no complex number of narrow ones
            a, b = wide[..., 0::2], wide[..., 1::2]
            return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        turn = torch.view_as_complex(torch.stack((cos, sin), -1).to(wide.dtype))
        turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turn
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def rotate_write(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor
) -> Tensor:
    turned = rotate(q, cos, sin, interleaved=False)
    write_pages(rotate(k, cos, sin, interleaved=False), v, k_pages, v_pages, slots)
    return turned
