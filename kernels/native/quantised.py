"""Rows of activations in eight bits, in C. Contracts: `kernels/quantised.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.dispatch import supports
from omni.kernels.native import build
from omni.kernels.threads import num_threads


def _supports(x: Tensor, *others: object) -> bool:
    return build.takes(x, dtypes=(torch.float32, torch.bfloat16))


@supports(_supports)
def quantise_rows(x: Tensor, fine: bool) -> tuple[Tensor, Tensor]:
    (N, C), compiled = x.shape, build.library()
    assert compiled is not None
    out, steps = torch.empty((1 + fine) * N, C, dtype=torch.uint8), torch.empty(N, 1)
    pointers = (each.data_ptr() for each in (x, out, steps))
    compiled.quantise_rows(*pointers, N, C, x.dtype == torch.bfloat16, fine, num_threads())
    return out, steps


@supports(_supports)
def dequantise_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, fine: bool, gelu: bool) -> Tensor:
    (N, O), compiled = (len(steps), sums.shape[1]), build.library()
    assert compiled is not None
    assert len(sums) == (1 + fine) * N
    assert bias is None or bias.shape == (O,)
    added = None if bias is None else bias.float().contiguous()
    out = torch.empty(N, O, dtype=sums.dtype)
    pointers = (0 if each is None else each.data_ptr() for each in (sums, steps, added, out))
    compiled.dequantise_rows(*pointers, N, O, sums.dtype == torch.bfloat16, fine, gelu, num_threads())
    return out
