from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from omni.kernels.fused import activation as fused
from omni.kernels.plain import activation as plain
from tests.kernels.near import assert_near
from tests.kernels.test_activation import TAPS

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


@dtypes
@pytest.mark.parametrize("shape", [(1, 2), (2, 3, 66), (1, 2 * 1031), (0, 4)])
def test_silu_mul(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x = (3 * torch.randn(shape)).to(dtype)
    x[..., :1] = -300  # past the reach of exp
    got = fused.silu_mul(x.to(device)).cpu()
    if x.numel():
        assert_near(got, plain.silu_mul(x.double()), plain.silu_mul(x))
    assert got.shape == (*shape[:-1], shape[-1] // 2)


@dtypes
def test_gelu_tanh(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.cat((torch.linspace(-12, 12, 1021), torch.tensor([0.0, 1e-20, -1e4, 1e4]))).to(dtype)
    assert_near(fused.gelu_tanh(x.to(device)).cpu(), plain.gelu_tanh(x.double()), plain.gelu_tanh(x))
    strided = torch.randn(7, 6).to(dtype).T
    assert_near(fused.gelu_tanh(strided.to(device)).cpu(), plain.gelu_tanh(strided.double()), plain.gelu_tanh(strided))


@dtypes
@pytest.mark.parametrize(("B", "C", "T"), [(1, 1, 1), (1, 1, 2), (2, 2, 23), (1, 1, 256), (1, 2, 1029)])
def test_up_snake_down(B: int, C: int, T: int, dtype: torch.dtype, device: torch.device) -> None:
    x, alpha, beta, taps = (y.to(dtype) for y in (torch.randn(B, C, T), torch.randn(C), torch.randn(C), TAPS))
    got = fused.up_snake_down(*(y.to(device) for y in (x, alpha, beta, taps))).cpu()
    truth = plain.up_snake_down(*(y.double() for y in (x, alpha, beta, taps)))
    assert_near(got, truth, plain.up_snake_down(x, alpha, beta, taps))


def test_up_snake_down_of_channels_apart(device: torch.device) -> None:
    whole, zero = torch.randn(1, 3, 40), torch.zeros(2)
    x = whole[:, 1:, 3:36]
    got = fused.up_snake_down(whole.to(device)[:, 1:, 3:36], *(y.to(device) for y in (zero, zero, TAPS))).cpu()
    truth = plain.up_snake_down(*(y.double() for y in (x, zero, zero, TAPS)))
    assert_near(got, truth, plain.up_snake_down(x, zero, zero, TAPS))


@triton.jit
def sin_squared_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_y + i, fused.sin_squared(tl.load(p_x + i, mask=i < n, other=0.0)), mask=i < n)


def test_sine(device: torch.device) -> None:
    """As good as torch's to 1e4; of larger angles it is still the square of a sine."""
    x = torch.cat((torch.linspace(-40, 40, 9973), torch.linspace(-1e4, 1e4, 49999), torch.pi / 2 * torch.arange(-400, 400)))
    y = torch.empty_like(x, device=device)
    sin_squared_kernel[(triton.cdiv(len(x), 8192),)](x.to(device), y, len(x), BLOCK=8192)
    assert_near(y.cpu(), x.double().sin().square(), x.sin().square())
    large = torch.logspace(4, 38, 97)
    z = torch.empty_like(large, device=device)
    sin_squared_kernel[(1,)](large.to(device), z, len(large), BLOCK=128)
    assert ((z >= 0) & (z <= 1)).all()
