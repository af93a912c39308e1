"""Normalisation, with the addition that always stands beside it."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.dispatch import dispatch
from omni.kernels.plain import norm as plain


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, `[..., C]`; the mean square is float32, rounded before the weight."""
    return dispatch(plain.rms_norm, x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(s), s) with s = residual + x in their dtype, `[..., C]` each."""
    return dispatch(plain.add_rms_norm, x, residual, weight, eps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last dimension, `[..., C]`, statistics in float32."""
    return dispatch(plain.layer_norm, x, weight, bias, eps)
