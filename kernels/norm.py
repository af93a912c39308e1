"""Normalisation, with the addition or modulation that always stands beside it."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.dispatch import twin
from omni.kernels.plain import norm as plain


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, `[..., C]`; the mean square is float32, rounded before the weight."""
    return twin(plain, x).rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(s), s) with s = residual + x in their dtype, `[..., C]` each."""
    return twin(plain, x).add_rms_norm(x, residual, weight, eps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last dimension, `[..., C]`, statistics in float32."""
    return twin(plain, x).layer_norm(x, weight, bias, eps)


def ada_layer_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """layer_norm(x) * (1 + scale) + shift without own weights; scale and shift broadcast to `[..., C]` (DiT, adaLN)."""
    return twin(plain, x).ada_layer_norm(x, scale, shift, eps)
