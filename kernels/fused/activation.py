"""Activations in Triton. Contracts: `kernels/activation.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused.rows import as_rows

BLOCK = 1024  # elements of a program of the elementwise kernels


@triton.jit
def silu_mul_kernel(p_x, p_out, width, s_x, BC: tl.constexpr):
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < width
    b_gate = tl.load(p_x + i_n * s_x + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    b_up = tl.load(p_x + i_n * s_x + width + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    tl.store(p_out + i_n * width + o_c, (b_gate * tl.sigmoid(b_gate) * b_up).to(p_out.dtype.element_ty), mask=m_c)


def silu_mul(gate_up: Tensor) -> Tensor:
    rows, width = as_rows(gate_up), gate_up.shape[-1] // 2
    out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype, device=gate_up.device)
    if len(rows):
        BC = min(triton.next_power_of_2(width), BLOCK)
        silu_mul_kernel[(len(rows), triton.cdiv(width, BC))](rows, out, width, rows.stride(0), BC=BC)
    return out


@triton.jit
def gelu_tanh_kernel(p_x, p_out, size, BC: tl.constexpr):
    o_c = tl.program_id(0).to(tl.int64) * BC + tl.arange(0, BC)
    m_c = o_c < size
    b_x = tl.load(p_x + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    # (1 + tanh u) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    b_y = b_x * tl.sigmoid(b_x * (1.5957691216057308 + 0.07135481627159956 * b_x * b_x))
    tl.store(p_out + o_c, b_y.to(p_out.dtype.element_ty), mask=m_c)


def gelu_tanh(x: Tensor) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    if size := x.numel():
        gelu_tanh_kernel[(triton.cdiv(size, BLOCK),)](x, out, size, BC=BLOCK)
    return out


@triton.jit
def sin_squared(b_x):
    """sin(x)^2 in float32, for |x| to 1e4 as good as a library's sine; beyond, between 0 and 1.

    A sine of `tl` falls back to a library, with a table in local memory for large arguments. The square has period pi, so
    that no quadrant counts: pi is taken off in parts of 8, 13 and 24 bits, whose products with a count below 2^11 are exact,
    and a polynomial of degree 9 stands for the sine from -pi/2 to pi/2 (error below 5e-9).
    """
    b_turns = tl.floor(b_x * 0.3183098861837907 + 0.5)
    b_x = ((b_x - b_turns * 3.140625) - b_turns * 9.67502593994140625e-4) - b_turns * 1.509957990978376432e-7
    b_x = tl.minimum(tl.maximum(b_x, -1.58), 1.58)  # more than pi / 2, since a large angle's count may fall just short
    b_s = b_x * b_x
    b_p = -0.1980661427413053e-3 + b_s * 2.600052989439599e-6
    b_p = -0.16666657095723872 + b_s * (0.008333017276277622 + b_s * b_p)
    b_y = b_x + b_x * b_s * b_p
    return b_y * b_y


@triton.jit
def snake(b_u, alpha, inv_beta):
    return b_u + sin_squared(b_u * alpha) * inv_beta


@triton.jit
def up_snake_down_kernel(p_x, p_alpha, p_beta, p_taps, p_out, C, T, s_b, s_c, BI: tl.constexpr, R: tl.constexpr):
    """A program makes BI runs of R = 8 neighbouring samples of one channel, each thread whole runs.

    So what neighbours share stays in registers: 2 R + 10 sines for R samples, where one sample alone needs 12. The fine
    (upsampled) signal at position n is 2 sum_i taps[n + 5 - 2 i] x[i]; a run begins at fine position 2 R i_run - 5.
    """
    tl.static_assert(R == 8)
    i_row = tl.program_id(0).to(tl.int64)
    i_b, i_c = i_row // C, i_row % C
    p_x += i_b * s_b + i_c * s_c
    alpha = tl.exp(tl.load(p_alpha + i_c).to(tl.float32))
    inv_beta = tl.div_rn(1.0, tl.exp(tl.load(p_beta + i_c).to(tl.float32)) + 1e-9)
    taps = ()
    for k in tl.static_range(12):
        taps = taps + (tl.load(p_taps + k).to(tl.float32),)

    # the fine signal at its two ends, positions 0 and 2 T - 1; it stays so beyond them
    head = 0.0
    tail = 0.0
    for k in tl.static_range(6):
        head += taps[11 - 2 * k] * tl.load(p_x + tl.minimum(tl.maximum(k - 3, 0), T - 1)).to(tl.float32)
        tail += taps[2 * k] * tl.load(p_x + tl.minimum(tl.maximum(T + 2 - k, 0), T - 1)).to(tl.float32)
    head = snake(2.0 * head, alpha, inv_beta)
    tail = snake(2.0 * tail, alpha, inv_beta)

    o_run = (tl.program_id(1) * BI + tl.arange(0, BI)) * R  # [BI], first sample of each run
    xs = ()
    for m in tl.static_range(R + 10):
        o_t = tl.minimum(tl.maximum(o_run + (m - 5), 0), T - 1)
        xs = xs + (tl.load(p_x + o_t).to(tl.float32),)  # [BI] each
    fine = ()
    for j in tl.static_range(2 * R + 10):
        # an even position n = 2 p takes taps 11, 9 ... 1 on samples p - 3 ... p + 2; an odd one, 2 p + 1, takes taps
        # 10, 8 ... 0 on samples p - 2 ... p + 3; position j - 5 is even for odd j
        b_u = taps[10 + j % 2] * xs[j // 2]
        for k in tl.static_range(1, 6):
            b_u += taps[10 + j % 2 - 2 * k] * xs[j // 2 + k]
        b_u = snake(2.0 * b_u, alpha, inv_beta)
        o_n = 2 * o_run + (j - 5)
        fine = fine + (tl.where(o_n < 0, head, tl.where(o_n >= 2 * T, tail, b_u)),)
    ys = ()
    for r in tl.static_range(R):
        b_y = taps[0] * fine[2 * r]
        for k in tl.static_range(1, 12):
            b_y += taps[k] * fine[2 * r + k]
        ys = ys + (b_y,)
    b_even = tl.join(tl.join(ys[0], ys[4]), tl.join(ys[2], ys[6]))  # [BI, 2, 2]
    b_odd = tl.join(tl.join(ys[1], ys[5]), tl.join(ys[3], ys[7]))  # [BI, 2, 2]
    b_y = tl.reshape(tl.join(b_even, b_odd), (BI, R))  # [BI, R], in the order of time
    o_y = o_run[:, None] + tl.arange(0, R)[None, :]
    tl.store(p_out + i_row * T + o_y, b_y.to(p_out.dtype.element_ty), mask=o_y < T)


def up_snake_down(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    B, C, T = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    alpha, beta, taps = alpha.contiguous(), beta.contiguous(), taps.contiguous()
    out = torch.empty((B, C, T), dtype=x.dtype, device=x.device)
    BI = min(max(triton.next_power_of_2(triton.cdiv(T, 8)), 32), 128)
    if B * C:
        grid = (B * C, triton.cdiv(T, 8 * BI))
        up_snake_down_kernel[grid](x, alpha, beta, taps, out, C, T, x.stride(0), x.stride(1), BI=BI, R=8, num_warps=BI // 32)
    return out
