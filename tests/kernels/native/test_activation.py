from __future__ import annotations

import pytest
import torch

from omni.kernels import up_snake_down
from omni.kernels.dispatch import twin
from omni.kernels.native import activation as native
from omni.kernels.plain import activation as plain

EPS = torch.finfo(torch.float32).eps
HALF = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098]
TAPS = torch.tensor(HALF + HALF[::-1])
POINT = torch.tensor([0.5 if k in (5, 6) else 0.0 for k in range(12)])
"""Taps that keep every sample as it is, so that a test sees the sine alone."""
LENGTHS = [(1, 1), (2, 1), (5, 3), (23, 1), (1000, 2), (1025, 1)]  # (T, threads)
pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.usefixtures("num_threads")
@pytest.mark.parametrize(("T", "num_threads"), LENGTHS, indirect=["num_threads"])
@pytest.mark.parametrize(("B", "C"), [(1, 1), (2, 3), (1, 24)])
def test_up_snake_down(B: int, C: int, T: int) -> None:
    x, alpha, beta = torch.randn(B, C, T), torch.randn(C), torch.randn(C)
    got = up_snake_down(x, alpha, beta, TAPS)
    truth = plain.up_snake_down(x.double(), alpha.double(), beta.double(), TAPS.double())
    # Each filter rounds a dozen sums of at most 1.5 x; the sine's slope turns that of its angle into as much times a / b.
    size = 1.5 * float(x.abs().max())
    allowed = 8 * EPS * float((size + (1 + size * alpha.exp()) / beta.exp()).max())
    assert got.isfinite().all()
    assert (got - truth).abs().max() <= allowed


@pytest.mark.parametrize("top", [3.0, 1e4, 2e5, 1e7, 1e30])
def test_sine_at_any_angle(top: float) -> None:
    """Magnified by 1 / b, beside which the signal itself is small up to 2e5."""
    x = torch.cat((torch.linspace(-top, top, 3001), torch.tensor([0.0, -0.0, 1e-30]))).view(1, 1, -1)
    alpha, beta = torch.zeros(1), torch.tensor([-12.0])
    b = beta.double().exp() + 1e-9
    truth = x.double() + x.double().sin().square() / b
    error = (up_snake_down(x, alpha, beta, POINT) - truth).abs()
    assert (error <= 3 * EPS / b + EPS * x.abs()).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_spreads_no_farther_than_the_filters(bad: float) -> None:
    x, log = torch.randn(2, 3, 1500), torch.zeros(3)
    x[1, 2, 700] = bad
    got, own = up_snake_down(x, log, log, TAPS), plain.up_snake_down(x, log, log, TAPS)
    assert got.isnan().any()
    assert got.isfinite().equal(own.isfinite())


def test_what_up_snake_down_leaves_to_torch() -> None:
    x, log = torch.randn(1, 24, 40), torch.zeros(24)
    assert twin(plain.up_snake_down, x, log, log, TAPS) is native.up_snake_down
    up_snake_down(x, log.requires_grad_(), log, TAPS).sum().backward()
    assert log.grad is not None
