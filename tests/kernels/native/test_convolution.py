from __future__ import annotations

import gc
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels import same_conv, up_conv
from omni.kernels.dispatch import twin
from omni.kernels.native import convolution as native
from omni.kernels.plain import convolution as plain
from tests.kernels.near import assert_near

EPS = torch.finfo(torch.float32).eps
LENGTHS = [(1, 1), (2, 1), (5, 3), (23, 1), (1000, 2), (1025, 1)]  # (T, threads)

SHAPES = [  # (I, O, taps, dilation)
    (1, 1, 3, 1),
    (3, 5, 3, 5),
    (24, 24, 11, 5),
    (80, 17, 7, 1),
    (96, 96, 3, 3),
    (200, 33, 3, 5),
    (200, 40, 7, 3),
    (400, 24, 7, 5),
    (130, 8, 1, 1),
]


@pytest.mark.usefixtures("num_threads", "needs_compiler")
@pytest.mark.parametrize(("T", "num_threads"), LENGTHS, indirect=["num_threads"])
@pytest.mark.parametrize(("I", "O", "taps", "dilation"), SHAPES)
def test_same_conv(I: int, O: int, taps: int, dilation: int, T: int) -> None:
    x, weight, bias, plus = torch.randn(2, I, T), torch.randn(O, I, taps), torch.randn(O), torch.randn(2, O, T)
    for some_bias, some_plus in ((None, None), (bias, plus)):
        parts = [None if each is None else each.double() for each in (some_bias, some_plus)]
        truth = plain.same_conv(x.double(), weight.double(), parts[0], dilation, parts[1])
        got = same_conv(x, weight, some_bias, dilation, some_plus)
        own = plain.same_conv(x, weight, some_bias, dilation, some_plus)
        # Twice what torch errs by, whose largest error is an accident where outputs are few: then two deviations, which are
        # about two roundings of an output's usual size.
        allowed = 2 * (own - truth).abs().max() + 4 * EPS * (I * taps + 1) ** 0.5
        assert got.shape == truth.shape
        assert got.isfinite().all()
        assert (got - truth).abs().max() <= allowed


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(("I", "taps"), [(768, 11), (768, 7), (768, 3), (192, 3), (48, 11)])
def test_same_conv_errs_like_torch(I: int, taps: int) -> None:
    x, weight = torch.randn(1, I, 300), torch.randn(64, I, taps)
    truth = plain.same_conv(x.double(), weight.double(), None, 1, None)
    errors = [(way.same_conv(x, weight, None, 1, None) - truth).square().mean() for way in (native, plain)]
    assert errors[0] <= 4 * errors[1]  # twice, squared


@pytest.mark.usefixtures("needs_compiler")
def test_a_changed_weight_is_seen_and_a_dropped_one_forgotten() -> None:
    x, weight = torch.randn(1, 24, 50), torch.randn(24, 24, 7)
    before, known = same_conv(x, weight, None), len(native._packed)
    assert known
    weight.mul_(2)
    torch.testing.assert_close(same_conv(x, weight, None), 2 * before)
    assert len(native._packed) == known
    del weight
    gc.collect()
    assert len(native._packed) == known - 1


@pytest.mark.usefixtures("needs_compiler")
def test_what_same_conv_leaves_to_torch() -> None:
    x, weight = torch.randn(1, 24, 40), torch.randn(24, 24, 3)
    assert twin(plain.same_conv, x, weight, None, 1, None) is native.same_conv
    same_conv(x, weight.requires_grad_(), None).sum().backward()
    assert weight.grad is not None
    with torch.inference_mode():  # weights made here do not say when they change
        inner = torch.randn(24, 24, 3)
        torch.testing.assert_close(same_conv(x, inner, None), F.conv1d(x, inner, padding=1))
        same_conv(x, inner.mul_(2), None)
    assert len([each for each in native._packed if each is inner]) == 0


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 7])
@pytest.mark.parametrize(("K", "rate"), [(1, 1), (11, 5), (7, 3), (4, 2), (3, 3), (5, 1)])
def test_up_conv_by_products(K: int, rate: int, T: int, B: int, has_bias: bool) -> None:
    x, weight, bias = torch.randn(B, 33, T), torch.randn(33, 6, K), torch.randn(6) if has_bias else None
    truth = plain.up_conv(x.double(), weight.double(), None if bias is None else bias.double(), rate)
    got = native.up_conv(x, weight, bias, rate)
    assert got.shape == (B, 6, rate * T)
    assert_near(got, truth, plain.up_conv(x, weight, bias, rate))


def test_up_conv_by_products_where_weights_outweigh_samples() -> None:
    weight = torch.randn(64, 32, 11)
    for T, pays in ((10, True), (1000, False)):
        x = torch.randn(1, 64, T)
        assert (twin(plain.up_conv, x, weight, None, 5) is native.up_conv) == pays
        torch.testing.assert_close(up_conv(x, weight, None, 5), plain.up_conv(x, weight, None, 5), rtol=1e-4, atol=1e-4)


def test_up_conv_has_gradients() -> None:
    def gradients(way: ModuleType) -> list[Tensor]:
        torch.manual_seed(0)
        x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 4, 5), (4, 3, 4), (3,)))
        way.up_conv(x, weight, bias, 2).square().sum().backward()
        return [y.grad for y in (x, weight, bias) if y.grad is not None]

    torch.testing.assert_close(gradients(native), gradients(plain), rtol=1e-4, atol=1e-4)
