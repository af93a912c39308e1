"""Rows in bytes, in C. Contracts: `kernels/narrow.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.native.build import library


def narrow_rows(x: Tensor, fine: bool) -> tuple[Tensor, Tensor]:
    (N, C), compiled = x.shape, library()
    assert compiled is not None
    out, steps = torch.empty((1 + fine) * N, C, dtype=torch.uint8), torch.empty(N, 1)
    pointers = (each.data_ptr() for each in (x, out, steps))
    compiled.narrow_rows(*pointers, N, C, x.dtype == torch.bfloat16, fine, torch.get_num_threads())
    return out, steps


def widen_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, fine: bool, gelu: bool) -> Tensor:
    (N, O), compiled = (len(steps), sums.shape[1]), library()
    assert compiled is not None
    assert len(sums) == (1 + fine) * N
    assert bias is None or bias.shape == (O,)
    added = None if bias is None else bias.float().contiguous()
    out = torch.empty(N, O, dtype=sums.dtype)
    pointers = (0 if each is None else each.data_ptr() for each in (sums, steps, added, out))
    compiled.widen_rows(*pointers, N, O, sums.dtype == torch.bfloat16, fine, gelu, torch.get_num_threads())
    return out
