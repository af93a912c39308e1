from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.narrow import WIDE, narrow_rows, widen_rows
from omni.kernels.native import build
from omni.kernels.plain import narrow as plain

SHAPES = [(1, 1), (3, 15), (5, 16), (2, 17), (40, 1024)]


@pytest.fixture(params=["c", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(build, "takes", lambda *args, **kwargs: False)
    else:
        assert build.library() is not None, build.status()
    return str(request.param)


def drawn(N: int, C: int, dtype: torch.dtype) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    x = torch.randn(N, C) * torch.logspace(-30, 3, N)[:, None]
    x[N // 2] = 0
    return x.to(dtype)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("N", "C"), SHAPES)
def test_narrow_rows(N: int, C: int, dtype: torch.dtype, fine: bool) -> None:
    x = drawn(N, C, dtype)
    rows, steps = narrow_rows(x, fine=fine)
    assert (rows.dtype, rows.shape) == (torch.uint8, ((1 + fine) * N, C))
    assert (steps.dtype, steps.shape) == (torch.float32, (N, 1))
    wide, largest = x.double(), x.double().abs().amax(1, keepdim=True)
    torch.testing.assert_close(steps.double(), (largest / 127).clamp_min(2.0**-126), rtol=1e-6, atol=0)
    counts = rows.double() - 128
    meant = counts[:N] + (counts[N:] / 254 if fine else 0)
    half = 0.5 / (254 if fine else 1) + 128 * 2.0**-22  # and float32's rounding of counts up to 127
    assert ((meant * steps.double() - wide).abs() <= half * steps.double()).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", WIDE)
def test_a_row_that_is_not_finite_says_so(dtype: torch.dtype, value: float) -> None:
    x = torch.randn(3, 40).to(dtype)
    alone = narrow_rows(x, fine=True)
    x[1, 7] = value
    rows, steps = narrow_rows(x, fine=True)
    assert steps.isnan().flatten().tolist() == [False, True, False]
    assert torch.equal(rows[[0, 2, 3, 5]], alone[0][[0, 2, 3, 5]])
    made = widen_rows(torch.randn(6, 5).to(dtype), steps, None, fine=True, gelu=False)
    assert made.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("N", "O"), SHAPES)
def test_widen_rows(N: int, O: int, dtype: torch.dtype, has_bias: bool, fine: bool, gelu: bool) -> None:
    sums, steps = (100 * torch.randn((1 + fine) * N, O)).to(dtype), torch.rand(N, 1) / 20
    bias = torch.randn(O).to(dtype) if has_bias else None
    got = widen_rows(sums, steps, bias, fine=fine, gelu=gelu)
    assert (got.dtype, got.shape) == (dtype, (N, O))
    args = sums.double(), steps.double(), None if bias is None else bias.double()
    truth = plain.widen_rows(*args, fine, False)
    size = truth.abs().clamp_min(1)
    if gelu:
        truth = F.gelu(truth, approximate="tanh")
    eps = 2.0**-8 if dtype == torch.bfloat16 else 0
    assert ((got.double() - truth).abs() <= eps * truth.abs() + 2e-6 * size).all()


@pytest.mark.parametrize("x", [-1e30, -200.0, -88.0, -9.0, -1e-3, 0.0, 1e-30, 9.0, 88.0, 1e30])
def test_gelu_at_any_size(x: float) -> None:
    """Against sums that are 1, so that the bias alone is seen."""
    assert build.library() is not None, build.status()
    got = widen_rows(torch.zeros(1, 20), torch.ones(1, 1), torch.full((20,), x), fine=False, gelu=True)
    want = F.gelu(torch.tensor(x, dtype=torch.float64), approximate="tanh")
    assert ((got.double() - want).abs() <= 2e-6 * max(1.0, abs(float(want)))).all(), got[0, 0]
