"""Page writes in Triton, a program for each row. Contracts: `kernels/pages.py`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def write_pages_kernel(
    p_k, p_v, p_k_pages, p_v_pages, p_slots, K, D, s_kn, s_kh, s_vn, s_vh, s_slot, BK: tl.constexpr, BD: tl.constexpr
):
    i_n = tl.program_id(0).to(tl.int64)
    slot = tl.load(p_slots + i_n)
    o_h, o_d = tl.arange(0, BK)[:, None], tl.arange(0, BD)[None, :]
    m = (o_h < K) & (o_d < D)
    b_k = tl.load(p_k + i_n * s_kn + o_h * s_kh + o_d, mask=m)  # [BK, BD]
    b_v = tl.load(p_v + i_n * s_vn + o_h * s_vh + o_d, mask=m)  # [BK, BD]
    o_page = slot * s_slot + o_h * D + o_d
    tl.store(p_k_pages + o_page, b_k.to(p_k_pages.dtype.element_ty), mask=m)
    tl.store(p_v_pages + o_page, b_v.to(p_v_pages.dtype.element_ty), mask=m)


def write_pages(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    (N, K, D), pages = k.shape, (k_pages, v_pages)
    assert k.stride(-1) == v.stride(-1) == 1 and all(p.is_contiguous() for p in pages) and slots.is_contiguous()
    strides = (*k.stride()[:2], *v.stride()[:2], K * D)
    BK, BD = triton.next_power_of_2(K), triton.next_power_of_2(D)
    if N:
        write_pages_kernel[(N,)](k, v, *pages, slots, K, D, *strides, BK=BK, BD=BD)
