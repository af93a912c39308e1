"""A linear layer with the activation that stands behind it."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.plain import linear as plain


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU by tanh of x @ weight.T + bias, for x `[N, I]`, weight `[O, I]`, bias `[O]` of one dtype; `[N, O]`.

    The sum is float32 or better; it may be rounded to the dtype before the activation or not.
    """
    return plain.linear_gelu(x, weight, bias)
