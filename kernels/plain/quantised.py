"""Plain quantised weights and rows. Contracts: `kernels/quantised.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.plain.activation import gelu_tanh

MIDDLE = 8
"""What is taken from four bits, so that they count from -8 to 7."""
SMALLEST = torch.finfo(torch.float32).tiny
"""The least step, that of a row of zeros."""


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    wide = weight.float()
    scale = (wide.abs().amax(1) / 127).clamp_min(SMALLEST)
    return (wide / scale[:, None]).round().to(torch.int8), scale


def quantise_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values uint8 `[O, C]` from 0 to 15, scale and zero bfloat16 `[O, G]`."""
    wide = weight.float().unflatten(1, (-1, group))  # [O, G, group]
    low, high = wide.aminmax(dim=2)
    scale = ((high - low) / 15).clamp_min(SMALLEST).bfloat16()
    zero = (low + MIDDLE * scale.float()).bfloat16()
    steps = (wide - zero[..., None]) / scale[..., None].float()
    values = (steps.round() + MIDDLE).clamp(0, 15)
    return values.flatten(1).to(torch.uint8), scale, zero


def join_pairs(values: Tensor) -> Tensor:
    """Uint8 `[O, C / 2]` of `[O, C]` from 0 to 15."""
    return values[:, ::2] | values[:, 1::2] << 4


def split_pairs(pairs: Tensor) -> Tensor:
    return torch.stack((pairs & 15, pairs >> 4), 2).flatten(1)


def dequantise_int8(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (values * scale[:, None]).to(dtype)


def dequantise_int4(pairs: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    steps = split_pairs(pairs).float().sub_(MIDDLE).unflatten(1, (scale.shape[1], -1))  # [O, G, group]
    return torch.addcmul(zero[..., None].float(), steps, scale[..., None].float()).flatten(1).to(dtype)


def quantise_rows(x: Tensor, fine: bool) -> tuple[Tensor, Tensor]:
    wide = x.float()
    steps = (wide.abs().amax(1, keepdim=True) / 127).clamp_min(SMALLEST)
    steps = torch.where(steps.isfinite(), steps, torch.nan)
    scaled = (wide / steps).nan_to_num(0)
    if fine:
        scaled = torch.cat((scaled.round(), (scaled - scaled.round()) * 254))
    return (scaled + 128.5).to(torch.uint8), steps


def dequantise_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, fine: bool, gelu: bool) -> Tensor:
    wide = sums.to(torch.promote_types(sums.dtype, torch.float32))
    if fine:
        coarse, rest = wide.chunk(2)
        wide = rest / 254 + coarse
    y = wide * steps
    if bias is not None:
        y = y + bias
    return (gelu_tanh(y) if gelu else y).to(sums.dtype)
