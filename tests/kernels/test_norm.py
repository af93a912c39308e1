from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels import add_rms_norm, layer_norm, rms_norm
from tests.kernels.near import assert_near

EPS = 1e-6
pytestmark = pytest.mark.usefixtures("way")
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
shapes = pytest.mark.parametrize("shape", [(1, 7), (5, 33), (2, 3, 48), (4, 2)])


def true_rms(x: Tensor, weight: Tensor) -> Tensor:
    rows = [row / (sum(float(c) ** 2 for c in row) / len(row) + EPS) ** 0.5 for row in x.double().flatten(0, -2)]
    return torch.stack(rows).view(x.shape) * weight.double()


def true_layer(x: Tensor) -> Tensor:
    rows = []
    for row in x.double().flatten(0, -2):
        mean = sum(row) / len(row)
        rows.append((row - mean) / (sum((row - mean) ** 2) / len(row) + EPS) ** 0.5)
    return torch.stack(rows).view(x.shape)


@both
@shapes
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = (3 * torch.randn(shape)).to(dtype), torch.randn(shape[-1]).to(dtype)
    x[0] = 0
    assert_near(rms_norm(x, weight, EPS), true_rms(x, weight), F.rms_norm(x, shape[-1:], weight, EPS))


def test_rms_norm_rounds_before_the_weight() -> None:
    x, weight = torch.randn(3, 257).bfloat16(), torch.randn(257).bfloat16()
    rounded = true_rms(x, torch.ones(257)).bfloat16()
    assert torch.equal(rms_norm(x, weight, EPS), rounded * weight)


@both
def test_add_rms_norm(dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 5, 33).to(dtype)
    weight = torch.randn(33).to(dtype)
    got, total = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, residual + x)
    assert_near(got, true_rms(total, weight), F.rms_norm(total, (33,), weight, EPS))


@both
@shapes
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm(affine: bool, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (2 + torch.randn(shape)).to(dtype)
    weight, bias = (torch.randn(shape[-1]).to(dtype) if affine else None for _ in "wb")
    truth = true_layer(x)
    if weight is not None and bias is not None:
        truth = truth * weight.double() + bias.double()
    own = F.layer_norm(x.float(), shape[-1:], None, None, EPS).to(dtype)
    if weight is not None and bias is not None:
        own = own * weight + bias
    assert_near(layer_norm(x, weight, bias, EPS), truth, own)
