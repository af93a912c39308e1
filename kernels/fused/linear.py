"""Linear layers with few rows and weights of eight and four bits in Triton, without tensor cores.

Weights are widened in registers, so that a step reads a half or a quarter of what it reads in bfloat16. Each program reads
whole rows of the matrix, so that sums run in one order and nothing is added up across programs. To split rows would only
help a matrix with fewer rows than a GPU has places for programs; the published models have none below 896. Contracts:
`kernels/linear.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused.activation import gelu_tanh
from omni.kernels.fused.rows import as_rows
from omni.kernels.linear import linear_in_blocks
from omni.kernels.quantised import Int4, Int8

MAX_ROWS = 8
"""Rows up to which weights in few bits have a kernel of their own."""
FEW = 2048
"""Outputs below which a matrix has few programs."""


def linear(x: Tensor, weight: Tensor | Int8 | Int4, bias: Tensor | None, gelu: bool) -> Tensor:
    if isinstance(weight, Tensor):
        y = F.linear(x, weight, bias)
    elif len(x) > MAX_ROWS:
        y = linear_in_blocks(x, weight, bias)
    else:
        y = _int8(x, weight, bias) if isinstance(weight, Int8) else _int4(x, weight, bias)
    return gelu_tanh(y) if gelu else y


@triton.jit
def int8_kernel(
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
    scale = tl.load(p_scale + o_o, mask=m_o, other=0.0)  # [BO]
    bias = tl.zeros((BO,), tl.float32)
    if p_bias is not None:
        bias = tl.load(p_bias + o_o, mask=m_o, other=0.0).to(tl.float32)  # [BO]
    for i in tl.static_range(M):
        b_y = tl.sum(accs[i], 1) * scale + bias  # [BO]
        tl.store(p_out + i * O + o_o, b_y.to(p_out.dtype.element_ty), mask=m_o)


def _int8(x: Tensor, weight: Int8, bias: Tensor | None) -> Tensor:
    rows, (O, C) = as_rows(x), weight.values.shape
    assert weight.values.stride(1) == 1 and weight.scale.is_contiguous() and (bias is None or bias.is_contiguous())
    M = len(rows)
    out = torch.empty(M, O, dtype=x.dtype, device=x.device)
    if M:
        BO, size, stages, warps = tile(M, O)
        shape = {"M": M, "BO": BO, "BC": min(triton.next_power_of_2(C), size // BO), "STAGES": stages}
        args = rows, weight.values, weight.scale, bias, out, O, C, rows.stride(0), weight.values.stride(0)
        int8_kernel[(triton.cdiv(O, BO),)](*args, **shape, num_warps=warps)
    return out


@triton.jit
def int4_kernel(
    p_x, p_pairs, p_scale, p_zero, p_bias, p_out, O, G, s_x, M: tl.constexpr, BO: tl.constexpr, BG: tl.constexpr,
    HALF: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    BC: tl.constexpr = BG * HALF * 2
    o_o = tl.program_id(0).to(tl.int64) * BO + tl.arange(0, BO)
    m_o = o_o < O
    o_g, o_c = tl.arange(0, BG), tl.arange(0, BC)
    p_steps = o_o[:, None] * G + o_g[None, :]
    p_pairs += p_steps[:, :, None] * HALF + tl.arange(0, HALF)[None, None, :]
    accs = ()
    for _ in tl.static_range(M):
        accs = accs + (tl.zeros((BO, BC), tl.float32),)
    for first in tl.range(0, G, BG, num_stages=STAGES):
        m_w = m_o[:, None] & (o_g < G - first)[None, :]
        b_p = tl.load(p_pairs + first * HALF, mask=m_w[:, :, None], other=0)  # [BO, BG, HALF]
        b_s = tl.load(p_scale + first + p_steps, mask=m_w, other=0.0).to(tl.float32)[:, :, None]  # [BO, BG, 1]
        b_z = tl.load(p_zero + first + p_steps, mask=m_w, other=0.0).to(tl.float32)[:, :, None]  # [BO, BG, 1]
        even = ((b_p & 15).to(tl.float32) - 8.0) * b_s + b_z
        odd = ((b_p >> 4).to(tl.float32) - 8.0) * b_s + b_z
        b_w = tl.reshape(tl.join(even, odd), (BO, BC))
        m_c = o_c < (G - first) * HALF * 2
        sums = ()
        for i in tl.static_range(M):
            b_x = tl.load(p_x + i * s_x + first * HALF * 2 + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
            sums = sums + (accs[i] + b_w * b_x[None, :],)
        accs = sums
    bias = tl.zeros((BO,), tl.float32)
    if p_bias is not None:
        bias = tl.load(p_bias + o_o, mask=m_o, other=0.0).to(tl.float32)  # [BO]
    for i in tl.static_range(M):
        b_y = tl.sum(accs[i], 1) + bias  # [BO]
        tl.store(p_out + i * O + o_o, b_y.to(p_out.dtype.element_ty), mask=m_o)


def _int4(x: Tensor, weight: Int4, bias: Tensor | None) -> Tensor:
    (O, G), C = weight.scale.shape, 2 * weight.pairs.shape[1]
    parts = weight.pairs, weight.scale, weight.zero, bias
    assert all(part is None or part.is_contiguous() for part in parts)
    half = C // 2 // G
    rows = as_rows(F.pad(x, (0, C - x.shape[1])) if C > x.shape[1] else x)
    M = len(rows)
    out = torch.empty(M, O, dtype=x.dtype, device=x.device)
    if M:
        BO, size, stages, warps = tile(M, O)
        BG = min(triton.next_power_of_2(G), max(1, size // BO // (2 * half)))
        shape = {"M": M, "BO": BO, "BG": BG, "HALF": half, "STAGES": stages}
        int4_kernel[(triton.cdiv(O, BO),)](rows, *parts, out, O, G, rows.stride(0), **shape, num_warps=warps)
    return out


def tile(M: int, O: int) -> tuple[int, int, int, int]:
    """Rows and numbers of a tile of the matrix, tiles under way, and warps."""
    few = O < FEW
    # with 2 M rows of the matrix for M of x, x is half of what is read; M BO BC sums stay in registers
    BO = triton.next_power_of_2(max(M, 1)) * (1 if few else 2)
    # with few programs, and where sums leave room for few, each has more loads under way
    return (BO, 4096, 4, 8) if few else (BO, 2048, 6 if M > 4 else 3, 4)
