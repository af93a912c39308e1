"""Norms in Triton, a program for each row. Contracts: `kernels/norm.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused.rows import as_rows, warps_for


@triton.jit
def rms_norm_kernel(p_x, p_residual, p_weight, p_out, p_total, C, width, s_x, s_residual, eps, BC: tl.constexpr):
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BC)
    m_c = o_c < C
    b_x = tl.load(p_x + i_n * s_x + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    if p_residual is not None:
        b_residual = tl.load(p_residual + i_n * s_residual + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
        b_total = (b_residual + b_x).to(p_total.dtype.element_ty)
        tl.store(p_total + i_n * C + o_c, b_total, mask=m_c)
        b_x = b_total.to(tl.float32)
    rms = tl.sqrt_rn(tl.div_rn(tl.sum(b_x * b_x, 0), width) + eps)
    b_x = (b_x * tl.div_rn(1.0, rms)).to(p_out.dtype.element_ty).to(tl.float32)  # the contract rounds before the weight
    b_weight = tl.load(p_weight + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    tl.store(p_out + i_n * C + o_c, (b_x * b_weight).to(p_out.dtype.element_ty), mask=m_c)


@triton.jit
def layer_norm_kernel(p_x, p_weight, p_bias, p_out, C, width, s_x, eps, BC: tl.constexpr):
    i_n = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BC)
    m_c = o_c < C
    b_x = tl.load(p_x + i_n * s_x + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    b_x = tl.where(m_c, b_x - tl.div_rn(tl.sum(b_x, 0), width), 0.0)
    variance = tl.div_rn(tl.sum(b_x * b_x, 0), width)
    b_x = b_x * tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    if p_weight is not None:
        b_x *= tl.load(p_weight + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    if p_bias is not None:
        b_x += tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)  # [BC]
    tl.store(p_out + i_n * C + o_c, b_x.to(p_out.dtype.element_ty), mask=m_c)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms_norm(x, None, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _rms_norm(x, residual, weight, eps)


def _rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows, out = as_rows(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    more = None if residual is None else as_rows(residual)
    total = out if residual is None else torch.empty_like(out)
    assert residual is None or (residual.shape, residual.dtype) == (x.shape, x.dtype)
    assert weight.dtype == x.dtype and weight.is_contiguous()
    (N, C), BC = rows.shape, triton.next_power_of_2(x.shape[-1])
    s_residual = 0 if more is None else more.stride(0)
    if N:
        rms_norm_kernel[(N,)](
            rows, more, weight, out, total, C, float(C), rows.stride(0), s_residual, eps, BC=BC, num_warps=warps_for(BC)
        )
    return out, total


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    rows, out = as_rows(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    assert all(y is None or y.is_contiguous() for y in (weight, bias))
    (N, C), BC = rows.shape, triton.next_power_of_2(x.shape[-1])
    if N:
        layer_norm_kernel[(N,)](rows, weight, bias, out, C, float(C), rows.stride(0), eps, BC=BC, num_warps=warps_for(BC))
    return out
