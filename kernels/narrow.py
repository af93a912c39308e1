"""Rows of activations in bytes, for products with weights of eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.native import build
from omni.kernels.native import quantised as native
from omni.kernels.plain import narrow as plain

WIDE = (torch.float32, torch.bfloat16)


def narrow_rows(x: Tensor, *, fine: bool) -> tuple[Tensor, Tensor]:
    """Every row in steps of a 127th of its largest magnitude, rounded, 128 for zero.

    Args:
        x: float32 or bfloat16 `[N, C]`.
        fine: what rounding left is kept as well, in 254ths of a step; it follows as N more rows.

    Returns:
        uint8 `[N, C]`, or `[2 N, C]` when fine; the steps, float32 `[N, 1]`, NaN where a row is not finite.
    """
    return (native if build.takes(x, dtypes=WIDE) else plain).narrow_rows(x, fine)


def widen_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, *, fine: bool, gelu: bool) -> Tensor:
    """Products of narrow rows as they were meant: sums * steps + bias, then GELU by tanh where asked for.

    Args:
        sums: float32 or bfloat16 `[N, O]`, or `[2 N, O]` when the rows were fine.
        steps: float32 `[N, 1]`.
        bias: `[O]`, any float dtype.

    Returns:
        `[N, O]`, in the sums' dtype.
    """
    return (native if build.takes(sums, dtypes=WIDE) else plain).widen_rows(sums, steps, bias, fine, gelu)
