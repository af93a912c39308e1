"""Gated activation, GELU, and the vocoder's anti-aliased periodic one."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.dispatch import dispatch
from omni.kernels.plain import activation as plain


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for `[..., 2 I]` holding gate then up; `[..., I]` in the same dtype."""
    return dispatch(plain.silu_mul, gate_up)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh (arXiv 1606.08415, section 2), any shape."""
    return dispatch(plain.gelu_tanh, x)


def up_snake_down(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    """BigVGAN's activation: upsample by 2, SnakeBeta, downsample by 2, so that no new frequency folds back.

    SnakeBeta is x + sin(x e^alpha)^2 / (e^beta + 1e-9). Both resamplers use the same symmetric low-pass; the signal is
    extended by repeating its edge samples before each.

    Args:
        x: `[B, C, T]`, T >= 1.
        alpha, beta: `[C]`, logarithms.
        taps: `[12]`, low-pass filter with sum 1.

    Returns:
        `[B, C, T]`.
    """
    return dispatch(plain.up_snake_down, x, alpha, beta, taps)
