"""Products of few rows with weights of eight and four bits in Triton. Contracts: `kernels/quantised.py`.

Weights are widened in registers, so that a step reads a half or a quarter of what it reads in bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused.gemv import launch, tile
from omni.kernels.fused.rows import as_rows


@triton.jit
def int4_kernel(
    p_x, p_pairs, p_scale, p_zero, p_out, O, G, s_x, M: tl.constexpr, BO: tl.constexpr, BG: tl.constexpr, HALF: tl.constexpr,
    STAGES: tl.constexpr,
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
    for i in tl.static_range(M):
        tl.store(p_out + i * O + o_o, tl.sum(accs[i], 1).to(p_out.dtype.element_ty), mask=m_o)


def multiply_int8(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    return launch(x, values, scale, None)


def multiply_int4(x: Tensor, pairs: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    O, G = scale.shape
    assert pairs.is_contiguous() and scale.is_contiguous() and zero.is_contiguous()
    half = pairs.shape[1] // G
    fill = 2 * pairs.shape[1] - x.shape[1]
    rows = as_rows(F.pad(x, (0, fill)) if fill else x)
    M = len(rows)
    out = torch.empty(M, O, dtype=x.dtype, device=x.device)
    if M:
        BO, size, stages, warps = tile(M, O)
        BG = min(triton.next_power_of_2(G), max(1, size // BO // (2 * half)))
        shape = {"M": M, "BO": BO, "BG": BG, "HALF": half, "STAGES": stages}
        int4_kernel[(triton.cdiv(O, BO),)](rows, pairs, scale, zero, out, O, G, rows.stride(0), **shape, num_warps=warps)
    return out
