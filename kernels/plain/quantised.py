"""Plain quantised weights. Contracts: `kernels/quantised.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 20
"""Weights that are rounded or unpacked at once; bounds the memory beside them."""


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), device=weight.device)
    for rows in blocks(*weight.shape):
        wide = weight[rows].to(torch.float32, copy=True)
        scale[rows] = wide.abs().amax(1).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
        values[rows] = wide.div_(scale[rows, None]).round_().to(torch.int8)
    return values, scale


def quantise_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values uint8 `[O, C]` from 0 to 15, scale and zero bfloat16 `[O, G]`."""
    O, C = weight.shape
    values = torch.empty(O, C, dtype=torch.uint8, device=weight.device)
    scale, zero = (torch.empty(O, C // group, dtype=torch.bfloat16, device=weight.device) for _ in range(2))
    for rows in blocks(O, C):
        wide = weight[rows].to(torch.float32, copy=True).unflatten(1, (-1, group))  # [O, G, group]
        low, high = wide.aminmax(dim=2)
        scale[rows] = (high - low).div_(15).clamp_min_(torch.finfo(torch.float32).tiny)
        step = scale[rows, :, None].float()
        zero[rows] = low + 8 * step[..., 0]
        whole = wide.sub_(zero[rows, :, None]).div_(step).round_().add_(8).clamp_(0, 15)
        values[rows] = whole.flatten(1).to(torch.uint8)
    return values, scale, zero


def join_pairs(values: Tensor) -> Tensor:
    """Uint8 `[O, C / 2]` of `[O, C]` from 0 to 15."""
    return values[:, ::2] | values[:, 1::2] << 4


def split_pairs(pairs: Tensor) -> Tensor:
    return torch.stack((pairs & 15, pairs >> 4), 2).flatten(1)


def dequantise_int8(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (values * scale[:, None]).to(dtype)


def dequantise_int4(pairs: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    steps = split_pairs(pairs).float().sub_(8).unflatten(1, (scale.shape[1], -1))  # [O, G, group]
    return torch.addcmul(zero[:, :, None].float(), steps, scale[:, :, None].float()).flatten(1).to(dtype)


def multiply_int8(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    out = x.new_empty(len(x), len(values))
    for rows in blocks(*values.shape):
        out[:, rows] = F.linear(x, dequantise_int8(values[rows], scale[rows], x.dtype))
    return out


def multiply_int4(x: Tensor, pairs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    C = 2 * pairs.shape[1]
    x = F.pad(x, (0, C - x.shape[1]))
    out = x.new_empty(len(x), len(pairs))
    for rows in blocks(len(pairs), C):
        out[:, rows] = F.linear(x, dequantise_int4(pairs[rows], scale[rows], zero[rows], x.dtype))
    return out


def blocks(num_rows: int, width: int) -> list[slice]:
    """Runs of rows `[num_rows, width]` that hold about BLOCK values each."""
    step = max(1, BLOCK // max(1, width))
    return [slice(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]
