"""Plain rows in bytes. Contracts: `kernels/narrow.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.plain.activation import gelu_tanh


def narrow_rows(x: Tensor, fine: bool) -> tuple[Tensor, Tensor]:
    wide = x.float()
    steps = wide.abs().amax(1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
    steps = torch.where(steps.isfinite(), steps, torch.nan)
    scaled = (wide / steps).nan_to_num_(0)
    if fine:
        coarse = scaled.round()
        scaled = torch.cat((coarse, (scaled - coarse).mul_(254)))
    return scaled.add_(128.5).to(torch.uint8), steps


def widen_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, fine: bool, gelu: bool) -> Tensor:
    wide = sums.to(torch.promote_types(sums.dtype, torch.float32))
    if fine:
        coarse, rest = wide.chunk(2)
        wide = rest / 254 + coarse
    y = wide * steps
    if bias is not None:
        y += bias
    return (gelu_tanh(y) if gelu else y).to(sums.dtype)
