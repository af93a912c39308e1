from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.plain import quantised as plain
from omni.kernels.quantised import (
    GROUP,
    Int4,
    Int8,
    dequantise,
    dequantise_rows,
    from_values,
    group_size,
    quantise_int4,
    quantise_int8,
    quantise_rows,
)

ROUND = 2.0**-8
"""What rounding to bfloat16 moves a value by at most, as a share of it."""
SHAPES = [(128, 64), (100, 96), (33, 45), (1, 300)]
ROW_SHAPES = [(1, 1), (3, 15), (5, 16), (2, 17), (40, 1024)]
DTYPES = [torch.float32, torch.bfloat16]
QUANTISE: dict[str, Callable[[Tensor], Int8 | Int4]] = {"int8": quantise_int8, "int4": quantise_int4}
pytestmark = pytest.mark.usefixtures("way")


def drawn(O: int, C: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    weight = torch.randn(O, C) * torch.logspace(-3, 3, O)[:, None]
    weight[O // 2] = 0
    return weight.to(dtype)


@pytest.mark.parametrize(("O", "C"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise_int8_moves_by_half_a_step(O: int, C: int, dtype: torch.dtype) -> None:
    weight = drawn(O, C, dtype)
    moved = (dequantise(quantise_int8(weight)) - weight.float()).abs()
    assert (moved <= weight.float().abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).all()


@pytest.mark.parametrize(("O", "C"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise_int4_moves_by_half_a_step(O: int, C: int, dtype: torch.dtype) -> None:
    weight = drawn(O, C, dtype)
    q = quantise_int4(weight)
    fill = -C % GROUP
    full = F.pad(weight.float(), (0, fill)).unflatten(1, (-1, GROUP))
    moved = (dequantise(q).unflatten(1, (-1, GROUP)) - full).abs().amax(2)
    # at the ends of the range the roundings of scale, 15 steps away, and of zero come to it
    assert (moved <= q.scale.float() * (0.5 + 15 * ROUND) + ROUND * q.zero.float().abs()).all()


@pytest.mark.parametrize("kind", QUANTISE)
@pytest.mark.parametrize("rows", [1, 1000])
def test_quantise_in_blocks(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(33, 96)
    whole = dequantise(QUANTISE[kind](weight))
    monkeypatch.setattr("omni.kernels.quantised.QUANTISED", rows)
    assert torch.equal(dequantise(QUANTISE[kind](weight)), whole)


@pytest.mark.parametrize("size", [32, 64, 96, 160, 128, 512])
def test_from_values_keeps_what_bfloat16_can_hold(size: int) -> None:
    O, G = 48, 3
    values = torch.randint(0, 16, (O, G * size), dtype=torch.uint8)
    scale, zeros = torch.randint(1, 9, (O, G)) * 2.0**-8, torch.randint(0, 16, (O, G))
    want = (values.int() - zeros.repeat_interleave(size, 1)) * scale.repeat_interleave(size, 1)
    weight = from_values(values, scale, zeros)
    assert torch.equal(dequantise(weight), want)


def test_group_size() -> None:
    assert [group_size(n) for n in (32, 64, 96, 128, 256, 2048, 11008)] == [32, 64, 32, 128, 256, 256, 256]


def drawn_rows(N: int, C: int, dtype: torch.dtype) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    x = torch.randn(N, C) * torch.logspace(-30, 3, N)[:, None]
    x[N // 2] = 0
    return x.to(dtype)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "C"), ROW_SHAPES)
def test_quantise_rows(N: int, C: int, dtype: torch.dtype, fine: bool) -> None:
    x = drawn_rows(N, C, dtype)
    rows, steps = quantise_rows(x, fine=fine)
    assert (rows.dtype, rows.shape) == (torch.uint8, ((1 + fine) * N, C))
    assert (steps.dtype, steps.shape) == (torch.float32, (N, 1))
    wide, largest = x.double(), x.double().abs().amax(1, keepdim=True)
    torch.testing.assert_close(steps.double(), (largest / 127).clamp_min(2.0**-126), rtol=1e-6, atol=0)
    counts = rows.double() - 128
    meant = counts[:N] + (counts[N:] / 254 if fine else 0)
    half = 0.5 / (254 if fine else 1) + 128 * 2.0**-22  # and float32's rounding of counts up to 127
    assert ((meant * steps.double() - wide).abs() <= half * steps.double()).all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_is_not_finite_says_so(dtype: torch.dtype, value: float) -> None:
    x = torch.randn(3, 40).to(dtype)
    alone = quantise_rows(x, fine=True)
    x[1, 7] = value
    rows, steps = quantise_rows(x, fine=True)
    assert steps.isnan().flatten().tolist() == [False, True, False]
    assert torch.equal(rows[[0, 2, 3, 5]], alone[0][[0, 2, 3, 5]])
    made = dequantise_rows(torch.randn(6, 5).to(dtype), steps, None, fine=True, gelu=False)
    assert made.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "O"), ROW_SHAPES)
def test_dequantise_rows(N: int, O: int, dtype: torch.dtype, has_bias: bool, fine: bool, gelu: bool) -> None:
    sums, steps = (100 * torch.randn((1 + fine) * N, O)).to(dtype), torch.rand(N, 1) / 20
    bias = torch.randn(O).to(dtype) if has_bias else None
    got = dequantise_rows(sums, steps, bias, fine=fine, gelu=gelu)
    assert (got.dtype, got.shape) == (dtype, (N, O))
    args = sums.double(), steps.double(), None if bias is None else bias.double()
    truth = plain.dequantise_rows(*args, fine, False)
    size = truth.abs().clamp_min(1)
    if gelu:
        truth = F.gelu(truth, approximate="tanh")
    eps = 2.0**-8 if dtype == torch.bfloat16 else 0
    assert ((got.double() - truth).abs() <= eps * truth.abs() + 2e-6 * size).all()
