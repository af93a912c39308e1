"""Rotary positions, with any number of position axes."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.block_table import BlockTable
from omni.kernels.dispatch import dispatch
from omni.kernels.plain import rotary as plain


def rotary_table(positions: Tensor, inv_freq: Tensor, axes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angle of every row and frequency.

    Args:
        positions: `[A, N]`, integer or float, one row per axis (M-RoPE: time, height, width).
        inv_freq: float32 `[D / 2]`.
        axes: int64 `[D / 2]`, the axis whose position each frequency turns with.
        dtype: of the result; angles are float32 whatever it is.

    Returns:
        cos, sin `[N, D / 2]`.
    """
    return dispatch(plain.rotary_table, positions, inv_freq, axes, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Turn each pair of components of `[..., T, H, D]` by its angle, cos and sin `[T, D / 2]`.

    Component i pairs with i + D / 2, or 2i with 2i + 1 when `interleaved`. The arithmetic is done in the wider of the two
    dtypes, the result is in x's.
    """
    return dispatch(plain.rotate, x, cos, sin, interleaved)


def rotate_write(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable
) -> Tensor:
    """Turn queries and keys by their rows' angles, and put the turned keys and the values at their slots in the blocks.

    Args:
        q: `[N, H, D]`.
        k, v: `[N, K, D]`.
        cos, sin: `[N, D / 2]`; component i turns with i + D / 2.
        k_cache, v_cache: `[num_blocks, P, K, D]`, written in place.

    Returns:
        The turned queries, `[N, H, D]`.
    """
    return dispatch(plain.rotate_write, q, k, v, cos, sin, k_cache, v_cache, table.slots)
