"""Convolution over time."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.dispatch import dispatch
from omni.kernels.plain import convolution as plain


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1, plus: Tensor | None = None) -> Tensor:
    """Convolution with stride 1 that keeps the length, past whose edges stand zeros; `plus` is added.

    The C twin keeps a second form of each weight, up to nine times as large, for as long as the weight lives and does not
    change in place; a change through `Tensor.data` is not seen.

    Args:
        x: `[B, I, T]`.
        weight: `[O, I, K]`, K odd.
        bias: `[O]`.
        dilation: samples from one tap to the next.
        plus: `[B, O, T]`.

    Returns:
        `[B, O, T]`.
    """
    return dispatch(plain.same_conv, x, weight, bias, dilation, plus)


def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    """Transposed convolution that makes `rate` samples of one; what it would make past the edges is cut off.

    Args:
        x: `[B, I, T]`.
        weight: `[I, O, K]`, K - rate even and not negative.
        bias: `[O]`.

    Returns:
        `[B, O, rate T]`.
    """
    return dispatch(plain.up_conv, x, weight, bias, rate)
