from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.linear import gains, linear, pack
from omni.kernels.native import linear as native
from omni.kernels.quantised import (
    Int4,
    Int8,
    Weight,
    dequantise,
    from_values,
    quantise_int4,
    quantise_int8,
)
from tests.kernels.near import assert_near

ROUND = 2.0**-8
"""What rounding to bfloat16 moves a value by at most, as a share of it."""
ROWS = [1, 3, 4, 5, 16, 17, 96, 97, 256]
SHAPES = [(128, 64), (100, 96), (33, 45), (1, 300)]
DTYPES = [torch.float32, torch.bfloat16]
QUANTISE: dict[str, Callable[[Tensor], Int8 | Int4]] = {"int8": quantise_int8, "int4": quantise_int4}


def drawn(O: int, C: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    weight = torch.randn(O, C) * torch.logspace(-3, 3, O)[:, None]
    weight[O // 2] = 0
    return weight.to(dtype)


def allowed(weight: Weight, x: Tensor, w: Tensor) -> Tensor:
    """How far each value of the product may be from the float64 truth.

    w: float64 `[O, C]`, what the weight means.
    """
    size, out = x.double().abs() @ w.abs().t(), ROUND if x.dtype == torch.bfloat16 else 2.0**-24
    sums = x.shape[1] * 2.0**-23 * size
    if isinstance(weight, native.PackedInt8):
        step = x.double().abs().amax(1, keepdim=True) / 127
        finer = 254 if len(x) <= native.FINE_ROWS else 1
        return (step / 2 / finer * w.abs().sum(1)) * (1 + 1e-4) + out * size + sums
    if isinstance(weight, native.PackedInt4):
        most = w.abs().amax(1) * x.double().abs().sum(1, keepdim=True)
        fine = 64 * 2.0**-24 * most  # scale times a value and zero cancel each other
        if len(x) > native.DIRECT_ROWS:
            return 2 * out * (1 + ROUND) * size + fine + sums
        step = x.double().abs().amax(1, keepdim=True) / 127
        return (step / 2 / 254 * w.abs().sum(1)) * (1 + 1e-3) + out * size + fine + sums
    return 2 * out * (1 + out) * size + sums  # the weight in x's dtype, and the result


@pytest.mark.parametrize("packs", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", QUANTISE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("O", "C"), SHAPES)
def test_linear(O: int, C: int, dtype: torch.dtype, kind: str, packs: bool) -> None:
    plain = QUANTISE[kind](drawn(O, C, dtype))
    w = dequantise(plain)[:, :C].double()
    weight = pack(plain) if packs else plain
    for rows in ROWS:
        x = (torch.randn(rows, C) * torch.logspace(-2, 2, rows)[:, None]).to(dtype)
        got = linear(x, weight)
        assert got.dtype == dtype
        assert got.shape == (rows, O)
        far = (got.double() - x.double() @ w.t()).abs()
        assert (far <= allowed(weight, x, w)).all(), (rows, float((far - allowed(weight, x, w)).max()))


def test_linear_is_near_zero_where_all_is_zero() -> None:
    for quantise in QUANTISE.values():
        for x in (torch.zeros(3, 64), torch.randn(3, 64)):
            assert not linear(x, pack(quantise(torch.zeros(5, 64)))).any()


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_a_row_alone_is_as_in_company(kind: str, rows: int) -> None:
    w = torch.randn(150, 330)
    weight = w.to(getattr(torch, kind)) if kind not in QUANTISE else QUANTISE[kind](w)
    x = torch.randn(rows, 330)
    if kind == "bfloat16":
        x = x.bfloat16()
    held = pack(weight)
    if isinstance(held, Int8) or not getattr(held, "in_blocks", True):
        pytest.skip("libraries multiply this weight on this CPU, and promise no such thing")
    assert torch.equal(linear(x, held), torch.cat([linear(row[None], held) for row in x]))


@pytest.mark.parametrize("kind", QUANTISE)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(kind: str, wrong: float) -> None:
    x = torch.randn(2, 64)
    x[1, 5] = wrong
    got = linear(x, pack(QUANTISE[kind](torch.randn(70, 64))))
    assert got[0].isfinite().all()
    assert not got[1].isfinite().any()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", *QUANTISE])
def test_rows_that_lie_apart(kind: str) -> None:
    """A slice of wider rows, and of a row that is not aligned."""
    w = torch.randn(64, 96)
    held = pack(w.to(getattr(torch, kind)) if kind not in QUANTISE else QUANTISE[kind](w))
    wide = torch.randn(3, 101).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    assert torch.equal(linear(wide[:, 3:99], held), linear(wide[:, 3:99].contiguous(), held))


def test_one_great_input_leaves_other_rows_as_they_are() -> None:
    weight = pack(quantise_int8(torch.randn(64, 64)))
    x = torch.randn(40, 64)
    great = x.clone()
    great[7, 3] = 1e4
    alike = torch.arange(40) != 7
    assert torch.equal(linear(x, weight)[alike], linear(great, weight)[alike])


@pytest.mark.parametrize("size", [32, 64, 96, 160, 128, 512])
def test_linear_of_values_from_elsewhere(size: int) -> None:
    O, G = 48, 3
    values = torch.randint(0, 16, (O, G * size), dtype=torch.uint8)
    weight = from_values(values, torch.randint(1, 9, (O, G)) * 2.0**-8, torch.randint(0, 16, (O, G)))
    x = torch.randn(native.DIRECT_ROWS + 1, G * size)
    torch.testing.assert_close(linear(x, pack(weight)), x @ dequantise(weight).t(), rtol=0, atol=1e-5 * size**0.5)


def test_nbytes_are_what_is_held() -> None:
    for plain in (quantise_int8(torch.randn(128, 128)), quantise_int4(torch.randn(128, 128))):
        held = pack(plain)
        assert not isinstance(held, Tensor)
        assert plain.nbytes <= held.nbytes <= plain.nbytes + 12 * 128
    assert Int8(torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2)).nbytes == 14
    assert Int4(torch.zeros(2, 16, dtype=torch.uint8), *torch.zeros(2, 2, 1).bfloat16()).nbytes == 40


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("dtype", "C"), [(torch.bfloat16, 45), (torch.bfloat16, 2048), (torch.float32, 800), (torch.float32, 2100)]
)
def test_dense(dtype: torch.dtype, C: int, rows: int) -> None:
    plain, x = torch.randn(33, C).to(dtype), torch.randn(rows, C).to(dtype)
    weight = pack(plain)
    assert isinstance(weight, native.PackedFloat) == gains(dtype, torch.device("cpu"), C)
    truth, got = x.double() @ plain.double().t(), linear(x, weight).double()
    if dtype == torch.bfloat16:
        size = x.double().abs() @ plain.double().abs().t()
        assert ((got - truth).abs() <= ROUND * truth.abs() * 1.01 + C * 2.0**-23 * size).all()
    else:  # a twin may err twice as much as the plain way
        errors = [(y.double() - truth).square().mean().sqrt() for y in (got, x @ plain.t())]
        assert errors[0] <= 2 * errors[1]


def test_narrow_float32_weights_stay_plain() -> None:
    assert isinstance(pack(torch.randn(33, 45)), Tensor)


@pytest.mark.parametrize("kind", ["plain", "dense", "int8", "packed int8", "int4", "packed int4"])
@pytest.mark.parametrize("rows", [1, 40, 120])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_with_bias_and_gelu(dtype: torch.dtype, rows: int, kind: str) -> None:
    w, x, bias = torch.randn(64, 2048).to(dtype) / 45, torch.randn(rows, 2048).to(dtype), torch.randn(64).to(dtype)
    plain = w if kind in ("plain", "dense") else QUANTISE[kind.split()[-1]](w)
    weight: Weight = pack(plain) if kind == "dense" or kind.startswith("packed") else plain
    alone = linear(x, weight).float()
    torch.testing.assert_close(linear(x, weight, bias).float(), alone + bias.float(), rtol=2 * ROUND, atol=2 * ROUND)
    for added in (None, bias):
        want = F.gelu(alone if added is None else alone + added.float(), approximate="tanh")
        torch.testing.assert_close(linear(x, weight, added, gelu=True).float(), want, rtol=3 * ROUND, atol=3 * ROUND)


@pytest.mark.parametrize("rows", [3, 40])
def test_bytes_take_half_precision(rows: int) -> None:
    weight, x = quantise_int8(torch.randn(64, 128)), torch.randn(rows, 128).half()
    got = linear(x, pack(weight))
    assert got.dtype == torch.float16
    want = x.float() @ dequantise(weight).t()
    assert (got.float() - want).norm() <= 0.02 * want.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", QUANTISE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_on_a_gpu(kind: str, dtype: torch.dtype) -> None:
    plain = QUANTISE[kind](drawn(100, 96, dtype).cuda())
    weight, w = pack(plain), dequantise(plain).double()
    assert weight is plain
    for rows in ROWS:
        x = torch.randn(rows, 96, device="cuda").to(dtype)
        far = (linear(x, plain).double() - x.double() @ w.t()).abs()
        assert (far <= allowed(plain, x, w)).all()


# sums of two lengths that oneDNN takes in float32, and of one that it does not
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 5, 3), (37, 80, 129), (29, 1030, 513)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_with_gelu(has_bias: bool, dtype: torch.dtype, rows: int, inner: int, outer: int) -> None:
    x, weight = torch.randn(rows, inner).to(dtype), (torch.randn(outer, inner) / inner**0.5).to(dtype)
    bias = torch.randn(outer).to(dtype) if has_bias else None
    truth = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    own = F.gelu(F.linear(x, weight, bias), approximate="tanh")
    assert_near(linear(x, weight, bias, gelu=True), F.gelu(truth, approximate="tanh"), own)


def test_gradient_passes() -> None:
    x, weight = torch.randn(3, 60), torch.randn(70, 60, requires_grad=True)
    linear(x, weight, gelu=True).sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
