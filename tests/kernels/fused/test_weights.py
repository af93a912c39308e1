from __future__ import annotations

import pytest
import torch

from omni.kernels.fused import gemv
from omni.kernels.fused import weights as fused
from omni.kernels.plain import weights as plain
from omni.kernels.weights import dequantise, from_values, quantise_int4, quantise_int8
from tests.kernels.near import assert_near

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 5, 1), (1, 1100, 3), (3, 700, 7), (8, 33, 17)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "O"), SHAPES)
@pytest.mark.parametrize("few", [0, 2048], ids=["large", "small"])
def test_int8(
    monkeypatch: pytest.MonkeyPatch, few: int, M: int, C: int, O: int, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(gemv, "FEW", few)  # tiles of large matrices and of small ones
    x, weight = torch.randn(M, C).to(dtype), quantise_int8(torch.randn(O, C))
    got = fused.multiply_int8(x.to(device), weight.values.to(device), weight.scale.to(device))
    truth = x.double() @ (weight.values.double() * weight.scale.double()[:, None]).t()
    assert_near(got.cpu(), truth, plain.multiply_int8(x, weight.values, weight.scale))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "O"), SHAPES)
@pytest.mark.parametrize("few", [0, 2048], ids=["large", "small"])
def test_int4(
    monkeypatch: pytest.MonkeyPatch, few: int, M: int, C: int, O: int, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(gemv, "FEW", few)
    x, weight = torch.randn(M, C).to(dtype), quantise_int4(torch.randn(O, C))
    parts = weight.pairs, weight.scale, weight.zero
    got = fused.multiply_int4(x.to(device), *(part.to(device) for part in parts))
    truth = x.double() @ dequantise(weight, torch.float64)[:, :C].t()
    assert_near(got.cpu(), truth, plain.multiply_int4(x, *parts))


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_int4_in_groups_of_any_size(size: int, device: torch.device) -> None:
    values, zeros = torch.randint(16, (9, 768), dtype=torch.uint8), torch.randint(16, (9, 768 // size))
    weight, x = from_values(values, torch.rand(9, 768 // size) + 0.1, zeros), torch.randn(2, 768)
    parts = weight.pairs, weight.scale, weight.zero
    got = fused.multiply_int4(x.to(device), *(part.to(device) for part in parts))
    assert_near(got.cpu(), x.double() @ dequantise(weight, torch.float64).t(), plain.multiply_int4(x, *parts))
