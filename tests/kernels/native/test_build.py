"""The library of the twins in C: what it takes, and what happens where it cannot be built."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni.kernels import same_conv, up_snake_down
from omni.kernels.native import build
from omni.kernels.plain import activation as plain_activation
from omni.kernels.plain import convolution as plain_convolution

HALF = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098]
TAPS = torch.tensor(HALF + HALF[::-1])


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a process that has built nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._loaded.cache_clear()
    yield tmp_path
    build._loaded.cache_clear()


@pytest.mark.usefixtures("needs_compiler")
def test_what_it_takes() -> None:
    x, log, weight = torch.randn(1, 24, 40), torch.zeros(24), torch.randn(24, 24, 3)
    assert build.takes(x, log, None)
    assert not build.takes(x.double())
    assert not build.takes(x.bfloat16())
    assert not build.takes(x.mT)
    assert not build.takes(x, log.to("meta"))
    assert not build.takes(x, weight.clone().requires_grad_())
    with torch.no_grad():
        assert build.takes(x, weight.clone().requires_grad_())


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
    want = [plain_activation.up_snake_down(x, log, log, TAPS), plain_convolution.same_conv(x, weight, None, 1, None)]
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


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("damage", ["cut", "changed", "writable", "a link"])
def test_a_library_that_is_not_ours_is_built_again(damage: str, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
    path = build.build()
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "writable":
        path.chmod(0o777)
    else:
        path.rename(fresh / "elsewhere.so")
        path.symlink_to(fresh / "elsewhere.so")
    again = build.build()
    assert again.read_bytes() == data
    assert not again.is_symlink()
    assert stat.S_IMODE(again.stat().st_mode) == 0o700


@pytest.mark.usefixtures("needs_compiler")
def test_nothing_is_loaded_from_a_folder_that_others_write_to(fresh: Path) -> None:
    (fresh / "omni").mkdir()
    (fresh / "omni").chmod(0o777)
    assert build.library() is None
    assert "others may write to it" in build.status()
