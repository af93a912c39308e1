from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from omni.kernels.fused import linear as fused
from omni.kernels.plain import linear as plain
from omni.kernels.quantised import Int4, Int8, dequantise, from_values, quantise_int4, quantise_int8
from tests.kernels.near import assert_near

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 5, 1), (1, 1100, 3), (3, 700, 7), (8, 33, 17), (11, 40, 5)]


def check(x: Tensor, weight: Int8 | Int4, bias: Tensor | None, gelu: bool, device: torch.device) -> None:
    there = replace(weight, **{field.name: getattr(weight, field.name).to(device) for field in fields(weight)})
    got = fused.linear(x.to(device), there, None if bias is None else bias.to(device), gelu)
    if isinstance(weight, Int8):
        meant = weight.values.double() * weight.scale.double()[:, None]
    else:
        meant = dequantise(weight, torch.float64)[:, : x.shape[1]]
    truth = plain.linear(x.double(), meant, None if bias is None else bias.double(), gelu)
    assert_near(got.cpu(), truth, plain.linear(x, weight, bias, gelu))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "O"), SHAPES)
@pytest.mark.parametrize("few", [0, 2048], ids=["large", "small"])
@pytest.mark.parametrize("bits", [8, 4])
def test_linear(
    monkeypatch: pytest.MonkeyPatch, bits: int, few: int, M: int, C: int, O: int, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(fused, "FEW", few)  # tiles of large matrices and of small ones
    x, w, bias = torch.randn(M, C).to(dtype), torch.randn(O, C), torch.randn(O).to(dtype)
    weight = quantise_int8(w) if bits == 8 else quantise_int4(w)
    for some_bias in (None, bias):
        check(x, weight, some_bias, False, device)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("M", [3, 9])
def test_linear_with_gelu(M: int, bits: int, device: torch.device) -> None:
    x, w, bias = torch.randn(M, 70), torch.randn(40, 70), torch.randn(40)
    check(x, quantise_int8(w) if bits == 8 else quantise_int4(w), bias, True, device)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_int4_in_groups_of_any_size(size: int, device: torch.device) -> None:
    values, zeros = torch.randint(16, (9, 768), dtype=torch.uint8), torch.randint(16, (9, 768 // size))
    check(torch.randn(2, 768), from_values(values, torch.rand(9, 768 // size) + 0.1, zeros), None, False, device)


def test_a_plain_weight(device: torch.device) -> None:
    x, weight, bias = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    for gelu in (False, True):
        got = fused.linear(x.to(device), weight.to(device), bias.to(device), gelu).cpu()
        truth = plain.linear(x.double(), weight.double(), bias.double(), gelu)
        assert_near(got, truth, plain.linear(x, weight, bias, gelu))
