from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from omni.kernels import up_conv
from omni.kernels.cpu import convolution as cpu
from omni.kernels.plain import convolution as plain
from tests.kernels.near import assert_near


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 7])
@pytest.mark.parametrize(("K", "rate"), [(1, 1), (11, 5), (7, 3), (4, 2), (3, 3), (5, 1)])
def test_up_conv_by_products(K: int, rate: int, T: int, B: int, has_bias: bool) -> None:
    x, weight, bias = torch.randn(B, 33, T), torch.randn(33, 6, K), torch.randn(6) if has_bias else None
    truth = plain.up_conv(x.double(), weight.double(), None if bias is None else bias.double(), rate)
    got = cpu.up_conv(x, weight, bias, rate)
    assert got.shape == (B, 6, rate * T)
    assert_near(got, truth, plain.up_conv(x, weight, bias, rate))


def test_up_conv_by_products_where_weights_outweigh_samples() -> None:
    weight = torch.randn(64, 32, 11)
    for T, pays in ((10, True), (1000, False)):
        x = torch.randn(1, 64, T)
        assert cpu.pays(x, weight, 5) == pays
        torch.testing.assert_close(up_conv(x, weight, None, 5), plain.up_conv(x, weight, None, 5), rtol=1e-4, atol=1e-4)


def test_up_conv_has_gradients() -> None:
    def gradients(way: ModuleType) -> list[Tensor]:
        torch.manual_seed(0)
        x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 4, 5), (4, 3, 4), (3,)))
        way.up_conv(x, weight, bias, 2).square().sum().backward()
        return [y.grad for y in (x, weight, bias) if y.grad is not None]

    torch.testing.assert_close(gradients(cpu), gradients(plain), rtol=1e-4, atol=1e-4)
