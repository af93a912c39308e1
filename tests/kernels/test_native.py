"""The C twins against float64 truths, and what happens where they cannot be built."""

from __future__ import annotations

import gc
import logging
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels import same_conv, up_snake_down
from omni.kernels.native import build, convolution
from omni.kernels.plain import activation as plain_activation
from omni.kernels.plain import convolution as plain_convolution

EPS = torch.finfo(torch.float32).eps
HALF = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098]
TAPS = torch.tensor(HALF + HALF[::-1])
POINT = torch.tensor([0.5 if k in (5, 6) else 0.0 for k in range(12)])
"""Taps that keep every sample as it is, so that a test sees the sine alone."""


LENGTHS = [(1, 1), (2, 1), (5, 3), (23, 1), (1000, 2), (1025, 1)]  # (T, threads)


@pytest.fixture
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a process that has built nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._loaded.cache_clear()
    yield tmp_path
    build._loaded.cache_clear()


@pytest.fixture
def needs_compiler() -> None:
    """CI has one; without it these tests would compare the plain way with itself."""
    assert build.library() is not None, build.status()


@pytest.mark.usefixtures("num_threads", "needs_compiler")
@pytest.mark.parametrize(("T", "num_threads"), LENGTHS, indirect=["num_threads"])
@pytest.mark.parametrize(("B", "C"), [(1, 1), (2, 3), (1, 24)])
def test_up_snake_down(B: int, C: int, T: int) -> None:
    x, alpha, beta = torch.randn(B, C, T), torch.randn(C), torch.randn(C)
    got = up_snake_down(x, alpha, beta, TAPS)
    truth = plain_activation.up_snake_down(x.double(), alpha.double(), beta.double(), TAPS.double())
    # Each filter rounds a dozen sums of at most 1.5 x; the sine's slope turns that of its angle into as much times a / b.
    size = 1.5 * float(x.abs().max())
    allowed = 8 * EPS * float((size + (1 + size * alpha.exp()) / beta.exp()).max())
    assert got.isfinite().all()
    assert (got - truth).abs().max() <= allowed


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("top", [3.0, 1e4, 2e5, 1e7, 1e30])
def test_sine_at_any_angle(top: float) -> None:
    """Magnified by 1 / b, beside which the signal itself is small up to 2e5."""
    x = torch.cat((torch.linspace(-top, top, 3001), torch.tensor([0.0, -0.0, 1e-30]))).view(1, 1, -1)
    alpha, beta = torch.zeros(1), torch.tensor([-12.0])
    b = beta.double().exp() + 1e-9
    truth = x.double() + x.double().sin().square() / b
    error = (up_snake_down(x, alpha, beta, POINT) - truth).abs()
    assert (error <= 3 * EPS / b + EPS * x.abs()).all()


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_spreads_no_farther_than_the_filters(bad: float) -> None:
    x, log = torch.randn(2, 3, 1500), torch.zeros(3)
    x[1, 2, 700] = bad
    got, plain = up_snake_down(x, log, log, TAPS), plain_activation.up_snake_down(x, log, log, TAPS)
    assert got.isnan().any()
    assert got.isfinite().equal(plain.isfinite())


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
        truth = plain_convolution.same_conv(x.double(), weight.double(), parts[0], dilation, parts[1])
        got = same_conv(x, weight, some_bias, dilation, some_plus)
        own = plain_convolution.same_conv(x, weight, some_bias, dilation, some_plus)
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
    truth = plain_convolution.same_conv(x.double(), weight.double(), None)
    errors = [(way.same_conv(x, weight, None) - truth).square().mean() for way in (convolution, plain_convolution)]
    assert errors[0] <= 4 * errors[1]  # twice, squared


@pytest.mark.usefixtures("needs_compiler")
def test_a_changed_weight_is_seen_and_a_dropped_one_forgotten() -> None:
    x, weight = torch.randn(1, 24, 50), torch.randn(24, 24, 7)
    before, known = same_conv(x, weight, None), len(convolution._packed)
    assert known
    weight.mul_(2)
    torch.testing.assert_close(same_conv(x, weight, None), 2 * before)
    assert len(convolution._packed) == known
    del weight
    gc.collect()
    assert len(convolution._packed) == known - 1


@pytest.mark.usefixtures("needs_compiler")
def test_what_the_c_twins_leave_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, log, weight = torch.randn(1, 24, 40), torch.zeros(24), torch.randn(24, 24, 3)
    assert build.takes(x, log, None)
    assert not build.takes(x.double())
    assert not build.takes(x.bfloat16())
    assert not build.takes(x.mT)
    assert not build.takes(x, log.to("meta"))
    assert not build.takes(x, weight.clone().requires_grad_())
    with torch.no_grad():
        assert build.takes(x, weight.clone().requires_grad_())
    (same_conv(x, weight.requires_grad_(), None).sum() + up_snake_down(x, log.requires_grad_(), log, TAPS).sum()).backward()
    assert weight.grad is not None and log.grad is not None
    with torch.inference_mode():  # weights made here do not say when they change
        inner = torch.randn(24, 24, 3)
        torch.testing.assert_close(same_conv(x, inner, None), F.conv1d(x, inner, padding=1))
        same_conv(x, inner.mul_(2), None)
    assert len([each for each in convolution._packed if each is inner]) == 0


def both(x: Tensor, weight: Tensor) -> list[Tensor]:
    log = torch.zeros(x.shape[1])
    return [up_snake_down(x, log, log, TAPS), same_conv(x, weight, None)]


@pytest.mark.parametrize("cause", ["no compiler", "a compiler that fails", "a library that does not load", "no folder"])
def test_without_a_library_torch_computes(
    cause: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if cause == "no compiler":
        monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    elif cause == "a compiler that fails":
        monkeypatch.setattr(build, "FLAGS", ("-DNO", "-fno-such-flag"))
    elif cause == "a library that does not load":
        fake = fresh / "cc"
        fake.write_text(
            '#!/bin/sh\nwhile [ "$1" != -o ] && [ "$1" ]; do shift; done\n[ "$2" ] && echo no library > "$2"\nexit 0\n'
        )
        fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setattr(build, "COMPILERS", (str(fake),))
    else:
        (fresh / "omni").write_text("a file where the folder should be")
    x, weight = torch.randn(1, 24, 40), torch.randn(24, 24, 3)
    with caplog.at_level(logging.INFO, logger=build.__name__):
        got = both(x, weight)
    log = torch.zeros(24)
    want = [plain_activation.up_snake_down(x, log, log, TAPS), plain_convolution.same_conv(x, weight, None)]
    assert all(a.equal(b) for a, b in zip(got, want, strict=True))
    assert build.library() is None
    assert build.status().startswith("plain, since ")
    assert len(caplog.records) == 1  # told once


def test_builds_at_the_same_time_leave_one_library(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))  # four builds in the time of one
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: build.build(), range(4)))
    assert len(paths) == 1
    assert list((fresh / "omni").iterdir()) == list(paths)
    before = paths.copy().pop().stat()
    assert build.build().stat().st_mtime_ns == before.st_mtime_ns  # met before
    assert build.status() in map(str, paths)
