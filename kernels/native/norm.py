"""Norms for a CPU, in C. Contracts: `kernels/norm.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.dispatch import supports
from omni.kernels.native import build
from omni.kernels.threads import num_threads


@supports(lambda x, weight, eps: build.takes_halves(x, weight))
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y, _ = _norm(x, None, weight, eps)
    return y


@supports(lambda x, residual, weight, eps: build.takes_halves(x, residual, weight))
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y, total = _norm(x, residual, weight, eps)
    assert total is not None
    return y, total


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor | None]:
    compiled, C = build.library(), x.shape[-1]
    assert compiled is not None
    assert weight.shape == (C,) and (residual is None or residual.shape == x.shape)
    y, total = torch.empty_like(x), None if residual is None else torch.empty_like(x)
    pointers = (None if each is None else each.data_ptr() for each in (x, residual, weight, y, total))
    compiled.step_norm(*pointers, eps, x.numel() // C, C, x.dtype == torch.bfloat16, num_threads())
    return y, total
