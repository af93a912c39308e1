from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omni.kernels.fused import norm as fused
from omni.kernels.plain import norm as plain
from tests.kernels.near import assert_near

EPS = 1e-6
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
shapes = pytest.mark.parametrize("shape", [(3, 33), (2, 2, 7), (1, 1024), (4, 1), (0, 5)])


def true_rms(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@dtypes
@shapes
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, weight = (3 * torch.randn(shape)).to(dtype), torch.randn(shape[-1]).to(dtype)
    x[:1] = 0
    got = fused.rms_norm(x.to(device), weight.to(device), EPS).cpu()
    if x.numel():
        assert_near(got, true_rms(x, weight), plain.rms_norm(x, weight, EPS))
    assert got.shape == shape


def test_rms_norm_rounds_before_the_weight(device: torch.device) -> None:
    x, weight = torch.randn(3, 257).bfloat16(), torch.randn(257).bfloat16()
    got = fused.rms_norm(x.to(device), weight.to(device), EPS).cpu()
    assert torch.equal(got, true_rms(x, torch.ones(257)).bfloat16() * weight)


@dtypes
def test_add_rms_norm(dtype: torch.dtype, device: torch.device) -> None:
    x, residual = torch.randn(2, 6, 66).to(dtype)[..., ::2].contiguous().unbind()
    residual = torch.cat((residual, residual), -1)[:, :33]  # rows apart
    weight = torch.randn(33).to(dtype)
    got, total = (y.cpu() for y in fused.add_rms_norm(x.to(device), residual.to(device), weight.to(device), EPS))
    own, own_total = plain.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, own_total)
    assert_near(got, true_rms(total, weight), own)


@dtypes
@pytest.mark.parametrize("shape", [(3, 33), (2, 2, 1), (1, 1024)])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm(affine: bool, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x = (2 + torch.randn(shape)).to(dtype)
    weight, bias = (torch.randn(shape[-1]).to(dtype) if affine else None for _ in "wb")
    wide = (None if y is None else y.double() for y in (weight, bias))
    there = (None if y is None else y.to(device) for y in (weight, bias))
    got = fused.layer_norm(x.to(device), *there, EPS).cpu()
    assert_near(got, plain.layer_norm(x.double(), *wide, EPS), plain.layer_norm(x, weight, bias, EPS))
