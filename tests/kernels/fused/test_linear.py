from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from omni.kernels.fused import gemv
from omni.kernels.fused import linear as fused
from omni.kernels.plain import quantised as plain
from omni.kernels.quantised import Int8, dequantise, from_values, quantise_int4, quantise_int8
from tests.kernels.near import assert_near

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 5, 1), (1, 1100, 3), (3, 700, 7), (8, 33, 17)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "O"), SHAPES)
@pytest.mark.parametrize("few", [0, 2048], ids=["large", "small"])
@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows(
    monkeypatch: pytest.MonkeyPatch, bits: int, few: int, M: int, C: int, O: int, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(gemv, "FEW", few)  # tiles of large matrices and of small ones
    x, w = torch.randn(M, C).to(dtype), torch.randn(O, C)
    weight = quantise_int8(w) if bits == 8 else quantise_int4(w)
    parts = [getattr(weight, field.name) for field in fields(weight)]
    name = f"multiply_int{bits}"
    got = getattr(fused, name)(x.to(device), *(part.to(device) for part in parts))
    if isinstance(weight, Int8):
        meant = weight.values.double() * weight.scale.double()[:, None]
    else:
        meant = dequantise(weight, torch.float64)
    truth = x.double() @ meant[:, :C].t()
    assert_near(got.cpu(), truth, getattr(plain, name)(x, *parts))


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_int4_in_groups_of_any_size(size: int, device: torch.device) -> None:
    values, zeros = torch.randint(16, (9, 768), dtype=torch.uint8), torch.randint(16, (9, 768 // size))
    weight, x = from_values(values, torch.rand(9, 768 // size) + 0.1, zeros), torch.randn(2, 768)
    parts = weight.pairs, weight.scale, weight.zero
    got = fused.multiply_int4(x.to(device), *(part.to(device) for part in parts))
    assert_near(got.cpu(), x.double() @ dequantise(weight, torch.float64).t(), plain.multiply_int4(x, *parts))
