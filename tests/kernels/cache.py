"""Rows put into a paged cache, one after the other."""

from __future__ import annotations

from torch import Tensor


def write_rows(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Keys and values `[N, K, D]` to their slots in blocks `[num_blocks, P, K, D]`."""
    P = k_cache.shape[1]
    for i, slot in enumerate(slots.tolist()):
        k_cache[slot // P, slot % P], v_cache[slot // P, slot % P] = k[i], v[i]
