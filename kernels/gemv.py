"""The product of a few rows with a matrix, as decoding has it: bound by reading the matrix once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from omni.kernels.dispatch import twin
from omni.kernels.plain import gemv as plain

MAX_ROWS = 8


def gemv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, sums in float32, for any number of rows; up to `MAX_ROWS` of them have a kernel of their own.

    Args:
        x: `[..., C]`.
        weight: `[O, C]` in x's dtype, rows side by side.
        bias: `[O]`.

    Returns:
        `[..., O]` in x's dtype.
    """
    if x.numel() > MAX_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    return twin(plain, x).gemv(x, weight, bias)
