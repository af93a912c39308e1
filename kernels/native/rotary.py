"""Rotary positions for a CPU: as products of complex numbers, and in C. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.dispatch import supports
from omni.kernels.native import build
from omni.kernels.threads import num_threads


def _supports(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> bool:
    """Pairs that lie side by side; there is no complex number of two narrow ones."""
    return interleaved and torch.promote_types(x.dtype, cos.dtype) in (torch.float32, torch.float64)


@supports(_supports)
def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, cos.dtype)).contiguous()
    turn = torch.view_as_complex(torch.stack((cos, sin), -1).to(wide.dtype))[:, None]  # [T, 1, D / 2]
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _writes(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> bool:
    """Rows of heads that lie side by side, as a split of one product gives them."""
    rows, D = (q, k, v), q.shape[-1]
    if (
        not build.takes_floats(cos, sin)
        or not build.takes_halves(k_cache, v_cache)
        or cos.dtype not in (torch.float32, q.dtype)
    ):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in rows):
        return False
    return all(x.dtype == k_cache.dtype and x.stride()[1:] == (D, 1) for x in rows) and slots.is_contiguous()


@supports(_writes)
def rotate_write(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> Tensor:
    """In C."""
    compiled, (N, H, D), K = build.library(), q.shape, k.shape[1]
    assert compiled is not None
    assert k.shape == v.shape == (N, K, D) and cos.shape == sin.shape == (N, D // 2) and k_cache.shape[2:] == (K, D)
    assert slots.shape == (N,) and slots.dtype == torch.int64
    out = q.new_empty(N, H, D)
    pointers = (each.data_ptr() for each in (q, k, v, cos, sin, k_cache, v_cache, out, slots))
    is_half = (x.dtype == torch.bfloat16 for x in (q, cos))
    compiled.step_rotate(*pointers, N, H, K, D, q.stride(0), k.stride(0), v.stride(0), *is_half, num_threads())
    return out
