"""The product of a few rows with a matrix in Triton, without tensor cores. Contract: `kernels/gemv.py`.

Each program reads whole rows of the matrix, so that sums run in one order and nothing is added up across programs. To split
rows would only help a matrix with fewer rows than a GPU has places for programs; the published models have none below 896.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused.rows import as_rows

FEW = 2048


@triton.jit
def gemv_kernel(
    p_x, p_w, p_scale, p_bias, p_out, O, C, s_x, s_w, M: tl.constexpr, BO: tl.constexpr, BC: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    o_o = tl.program_id(0).to(tl.int64) * BO + tl.arange(0, BO)
    m_o = o_o < O
    o_c = tl.arange(0, BC)
    p_w += o_o[:, None] * s_w + o_c[None, :]
    accs = ()
    for _ in tl.static_range(M):
        accs = accs + (tl.zeros((BO, BC), tl.float32),)
    for first in tl.range(0, C, BC, num_stages=STAGES):
        m_c = o_c < C - first
        b_w = tl.load(p_w + first, mask=m_o[:, None] & m_c[None, :], other=0.0).to(tl.float32)  # [BO, BC]
        sums = ()
        for i in tl.static_range(M):
            b_x = tl.load(p_x + i * s_x + first + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
            sums = sums + (accs[i] + b_w * b_x[None, :],)
        accs = sums
    scale = tl.full((BO,), 1.0, tl.float32)
    if p_scale is not None:
        scale = tl.load(p_scale + o_o, mask=m_o, other=0.0)  # [BO]
    bias = tl.zeros((BO,), tl.float32)
    if p_bias is not None:
        bias = tl.load(p_bias + o_o, mask=m_o, other=0.0).to(tl.float32)  # [BO]
    for i in tl.static_range(M):
        b_y = tl.sum(accs[i], 1) * scale + bias  # [BO]
        tl.store(p_out + i * O + o_o, b_y.to(p_out.dtype.element_ty), mask=m_o)


def gemv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert x.dtype == weight.dtype
    return launch(x, weight, None, bias)


def launch(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """As `gemv`, where each row of the weight, of any dtype, may have a scale: float32 `[O]`."""
    rows, (O, C) = as_rows(x), weight.shape
    assert weight.stride(1) == 1
    assert all(each is None or each.is_contiguous() for each in (scale, bias))
    M = len(rows)
    out = torch.empty((*x.shape[:-1], O), dtype=x.dtype, device=x.device)
    if M:
        BO, size, stages, warps = tile(M, O)
        shape = {"M": M, "BO": BO, "BC": min(triton.next_power_of_2(C), size // BO), "STAGES": stages}
        args = rows, weight, scale, bias, out, O, C, rows.stride(0), weight.stride(0)
        gemv_kernel[(triton.cdiv(O, BO),)](*args, **shape, num_warps=warps)
    return out


def tile(M: int, O: int) -> tuple[int, int, int, int]:
    """Rows and numbers of a tile of the matrix, tiles under way, and warps."""
    few = O < FEW
    # with 2 M rows of the matrix for M of x, x is half of what is read; M BO BC sums stay in registers
    BO = triton.next_power_of_2(max(M, 1)) * (1 if few else 2)
    # with few programs, and where sums leave room for few, each has more loads under way
    return (BO, 4096, 4, 8) if few else (BO, 2048, 6 if M > 4 else 3, 4)
