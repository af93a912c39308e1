"""Rotary positions as products of complex numbers, for a CPU. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.dispatch import supports


def _supports(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> bool:
    """Pairs that lie side by side; there is no complex number of two narrow ones."""
    return interleaved and torch.promote_types(x.dtype, cos.dtype) in (torch.float32, torch.float64)


@supports(_supports)
def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, cos.dtype)).contiguous()
    turn = torch.view_as_complex(torch.stack((cos, sin), -1).to(wide.dtype))[:, None]  # [T, 1, D / 2]
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
