"""Rows put into a paged cache, one after the other."""

from __future__ import annotations

from torch import Tensor


def write_pages(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """Keys and values `[N, K, D]` to their slots in pages `[num_pages, P, K, D]`."""
    P = k_pages.shape[1]
    for i, slot in enumerate(slots.tolist()):
        k_pages[slot // P, slot % P], v_pages[slot // P, slot % P] = k[i], v[i]
