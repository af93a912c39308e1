"""The interpreter is as strict as `triton_cpu` says, and the builds tell what they should."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.kernels import aot

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is interpreted")


@triton.jit
def copy_kernel(p_x, p_y, n, REACH: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * REACH + tl.arange(0, BLOCK)
    tl.store(p_y + i, tl.load(p_x + i, mask=i < n), mask=i < n)


@triton.jit
def add_kernel(p_x, p_y, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    b_x = tl.load(p_x + i)
    if WIDE:
        b_x = b_x.to(tl.float32)
    tl.store(p_y + i, b_x + b_x)


@triton.jit
def sum_kernel(p_x, p_y, BLOCK: tl.constexpr):
    tl.store(p_y, tl.sum(tl.load(p_x + tl.arange(0, BLOCK)), 0))


@triton.jit
def dot_kernel(p_x, p_y, p_z, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(p_z + i, tl.dot(tl.load(p_x + i), tl.load(p_y + i)))


@triton.jit
def cast_kernel(p_x, p_y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(p_y + i, tl.load(p_x + i).to(p_y.dtype.element_ty))


@triton.jit
def shift_kernel(p_x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_x + i, tl.load(p_x + i + 1, mask=i + 1 < n, other=0.0), mask=i < n)


def copied(n: int, told: int, reach: int = 8) -> Tensor:
    x, y = torch.arange(n).float(), torch.empty(n)
    copy_kernel[(2,)](x, y, told, REACH=reach, BLOCK=8)
    return y


def test_runs() -> None:
    assert torch.equal(copied(13, 13), torch.arange(13).float())


def test_memory_outside_is_refused() -> None:
    with pytest.raises(Exception, match="outside every tensor"):
        copied(13, 14)


def test_races_show() -> None:
    with pytest.raises(RuntimeError, match="two programs write"):
        copied(13, 13, reach=5)
    with pytest.raises(RuntimeError, match="reads an element that this launch writes"):
        shift_kernel[(2,)](torch.zeros(13), 13, BLOCK=8)
    x = torch.zeros(8)
    copy_kernel[(1,)](x, x, 8, REACH=8, BLOCK=8)  # in place, each element by its own program


def test_bf16_arithmetic_is_refused() -> None:
    x = torch.randn(8).bfloat16()
    with pytest.raises(Exception, match="bfloat16: convert to float32"):
        add_kernel[(1,)](x, torch.empty_like(x), WIDE=False, BLOCK=8)
    with pytest.raises(Exception, match="bfloat16: convert to float32"):
        sum_kernel[(1,)](x, torch.empty_like(x[:1]), BLOCK=8)
    y = torch.empty_like(x)
    add_kernel[(1,)](x, y, WIDE=True, BLOCK=8)
    assert torch.equal(y, x + x)


def test_bf16_products_are_true() -> None:
    x, y = torch.randn(2, 16, 16).bfloat16()
    z = torch.empty(16, 16)
    dot_kernel[(1,)](x, y, z, BLOCK=16)
    torch.testing.assert_close(z.double(), x.double() @ y.double(), rtol=0, atol=1e-5)  # 16 roundings of sums below 16


def test_bf16_casts_round_to_nearest_even() -> None:
    odd = [1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 0.0, -0.0, float("inf"), 3.4e38, 1e-40]
    x = torch.cat((torch.tensor(odd), torch.randn(56) * torch.logspace(-30, 30, 56)))
    y, back = torch.empty(64, dtype=torch.bfloat16), torch.empty(64)
    cast_kernel[(1,)](x, y, BLOCK=64)
    assert torch.equal(y, x.bfloat16())
    cast_kernel[(1,)](y, back, BLOCK=64)
    assert torch.equal(back, y.float())


def test_builds_tell_spills_and_tensor_cores(built: aot.Built) -> None:
    """The gate's own reading of machine code, on kernels made for it (`builds.py`)."""
    for target, matrix in (("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA")):
        assert built["harness: dot"][target][0].opcodes[matrix] > 0
        assert built["harness: dot"][target][0].stack == 0
        assert built["harness: spill"][target][0].stack > 0


def test_omni_imports_no_triton() -> None:
    code = "import sys, omni, omni.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
