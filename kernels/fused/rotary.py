"""Rotary positions in Triton. Contracts: `kernels/rotary.py`."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS = 8  # of a program


@triton.jit
def turn(p_x, p_y, p_cos, p_sin, o_h, H, s_x, s_y, HALF: tl.constexpr, INTERLEAVED: tl.constexpr, BD: tl.constexpr):
    """Read heads `o_h` of one row at `p_x`, turn them by the row's angles, and write them at `p_y`."""
    o_d = tl.arange(0, BD)  # of the pairs
    m_d = o_d < HALF
    b_cos = tl.load(p_cos + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]  # [1, BD]
    b_sin = tl.load(p_sin + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]  # [1, BD]
    if INTERLEAVED:
        o_a = 2 * o_d[None, :]
        o_b = o_a + 1
    else:
        o_a = o_d[None, :]
        o_b = o_a + HALF
    m = (o_h < H)[:, None] & m_d[None, :]
    b_a = tl.load(p_x + o_h[:, None] * s_x + o_a, mask=m, other=0.0).to(tl.float32)  # [BH, BD]
    b_b = tl.load(p_x + o_h[:, None] * s_x + o_b, mask=m, other=0.0).to(tl.float32)  # [BH, BD]
    tl.store(p_y + o_h[:, None] * s_y + o_a, (b_a * b_cos - b_b * b_sin).to(p_y.dtype.element_ty), mask=m)
    tl.store(p_y + o_h[:, None] * s_y + o_b, (b_b * b_cos + b_a * b_sin).to(p_y.dtype.element_ty), mask=m)


@triton.jit
def rotate_kernel(
    p_x, p_out, p_cos, p_sin, T, H, s_b, s_t, s_h,
    HALF: tl.constexpr, INTERLEAVED: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(0).to(tl.int64)
    i_b, i_t = i_n // T, i_n % T
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    p_x += i_b * s_b + i_t * s_t
    p_out += i_n * H * (2 * HALF)
    turn(p_x, p_out, p_cos + i_t * HALF, p_sin + i_t * HALF, o_h, H, s_h, 2 * HALF, HALF, INTERLEAVED, BD)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    *lead, T, H, D = x.shape
    y = x.reshape(math.prod(lead), T, H, D)
    y = y if y.stride(-1) == 1 else y.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    BH, BD = min(triton.next_power_of_2(H), HEADS), triton.next_power_of_2(D // 2)
    if out.numel():
        grid = (len(y) * T, triton.cdiv(H, BH))
        rotate_kernel[grid](
            y, out, cos, sin, T, H, *y.stride()[:3], HALF=D // 2, INTERLEAVED=interleaved, BH=BH, BD=BD, num_warps=2
        )
    return out


@triton.jit
def rotate_write_kernel(
    p_q, p_k, p_v, p_cos, p_sin, p_out, p_k_cache, p_v_cache, p_slots,
    H, K, s_qn, s_qh, s_kn, s_kh, s_vn, s_vh,
    HALF: tl.constexpr, NUM_Q: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The first NUM_Q programs of a row turn BH query heads each; the others write BH key heads and their values."""
    i_n, i_part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    D: tl.constexpr = 2 * HALF
    p_cos += i_n * HALF
    p_sin += i_n * HALF
    if i_part < NUM_Q:
        o_h = i_part * BH + tl.arange(0, BH)
        turn(p_q + i_n * s_qn, p_out + i_n * H * D, p_cos, p_sin, o_h, H, s_qh, D, HALF, False, BD)
    else:
        o_h = (i_part - NUM_Q) * BH + tl.arange(0, BH)
        o_slot = tl.load(p_slots + i_n) * K * D
        turn(p_k + i_n * s_kn, p_k_cache + o_slot, p_cos, p_sin, o_h, K, s_kh, D, HALF, False, BD)
        o_d = tl.arange(0, 2 * BD)
        m = (o_h < K)[:, None] & (o_d < D)[None, :]
        b_v = tl.load(p_v + i_n * s_vn + o_h[:, None] * s_vh + o_d[None, :], mask=m)  # [BH, 2 BD]
        tl.store(p_v_cache + o_slot + o_h[:, None] * D + o_d[None, :], b_v.to(p_v_cache.dtype.element_ty), mask=m)


def rotate_write(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> Tensor:
    (N, H, D), K = q.shape, k.shape[1]
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert all(x.is_contiguous() for x in (k_cache, v_cache, slots))
    cos, sin = cos.contiguous(), sin.contiguous()
    out = torch.empty((N, H, D), dtype=q.dtype, device=q.device)
    BH, BD = min(triton.next_power_of_2(H), HEADS), triton.next_power_of_2(D // 2)
    num_q, num_k = triton.cdiv(H, BH), triton.cdiv(K, BH)
    strides = (s for x in (q, k, v) for s in x.stride()[:2])
    sizes = {"HALF": D // 2, "NUM_Q": num_q, "BH": BH, "BD": BD}
    if N:
        rotate_write_kernel[(N, num_q + num_k)](
            q, k, v, cos, sin, out, k_cache, v_cache, slots, H, K, *strides, **sizes, num_warps=2
        )
    return out
