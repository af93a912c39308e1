from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels import gelu_tanh, silu_mul, up_snake_down
from tests.kernels.near import assert_near

HALF = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098]
TAPS = torch.tensor(HALF + HALF[::-1])
pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 2), (3, 14), (2, 5, 66)])
def test_silu_mul(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (3 * torch.randn(shape)).to(dtype)
    gate, up = x[..., : shape[-1] // 2], x[..., shape[-1] // 2 :]
    truth = gate.double() / (1 + (-gate.double()).exp()) * up.double()
    assert_near(silu_mul(x), truth, F.silu(gate) * up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_tanh(dtype: torch.dtype) -> None:
    x = torch.cat((torch.linspace(-12, 12, 97), torch.tensor([0.0, 1e-20, -1e4, 1e4]))).to(dtype)
    truth = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    assert_near(gelu_tanh(x), torch.tensor(truth, dtype=torch.float64), F.gelu(x, approximate="tanh"))


def loops(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Sample by sample, in Python's floats; past an edge stands the edge's sample."""
    B, C, T = x.shape
    out = torch.empty(B, C, T, dtype=torch.float64)
    taps = TAPS.tolist()
    for b in range(B):
        for c in range(C):
            wave, a, d = x[b, c].tolist(), math.exp(alpha[c]), math.exp(beta[c]) + 1e-9
            fine = []
            for n in range(2 * T):
                u = 2 * sum(
                    taps[n + 5 - 2 * i] * wave[min(max(i, 0), T - 1)] for i in range(-5, T + 5) if 0 <= n + 5 - 2 * i < 12
                )
                fine.append(u + math.sin(u * a) ** 2 / d)
            for t in range(T):
                out[b, c, t] = sum(taps[k] * fine[min(max(2 * t + k - 5, 0), 2 * T - 1)] for k in range(12))
    return out


@pytest.mark.parametrize("T", [1, 2, 5, 23])
@pytest.mark.parametrize(("B", "C"), [(1, 1), (2, 3)])
def test_up_snake_down(B: int, C: int, T: int) -> None:
    x, alpha, beta = torch.randn(B, C, T), torch.randn(C), torch.randn(C)
    truth = loops(x, alpha, beta)
    torch.testing.assert_close(up_snake_down(x, alpha, beta, TAPS).double(), truth, rtol=1e-5, atol=1e-5)
    exact = up_snake_down(x.double(), alpha.double(), beta.double(), TAPS.double())
    torch.testing.assert_close(exact, truth, rtol=1e-12, atol=1e-12)


def test_up_snake_down_keeps_a_constant() -> None:
    alpha, beta = torch.tensor([0.3]).double(), torch.tensor([-0.2]).double()
    taps = (TAPS / TAPS.sum()).double()
    got = up_snake_down(torch.full((1, 1, 9), 0.7).double(), alpha, beta, taps / taps.sum())
    want = 0.7 + math.sin(0.7 * math.exp(0.3)) ** 2 / (math.exp(-0.2) + 1e-9)
    torch.testing.assert_close(got, torch.full_like(got, want), rtol=0, atol=1e-7)
