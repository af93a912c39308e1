"""Tensors as rows, and how many warps a row wants."""

from __future__ import annotations

from torch import Tensor


def as_rows(x: Tensor) -> Tensor:
    """`[N, C]` of `[..., C]`, rows at any distance, neighbours in a row side by side; copied only if it lies otherwise."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.shape[-1] == 1 or x.stride(-1) == 1 else x.contiguous()


def warps_for(width: int) -> int:
    """Eight elements a thread: one load of 16 bytes of bfloat16, two of float32."""
    return min(max(width // 256, 1), 16)
