from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch
from torch import Tensor

from omni.kernels import BlockTable, rotary_table, rotate, rotate_write
from tests.kernels.cache import write_rows
from tests.kernels.near import assert_near

pytestmark = pytest.mark.usefixtures("way")


def frequencies(D: int) -> Tensor:
    return 1e4 ** -(torch.arange(0, D, 2).float() / D)


@pytest.mark.parametrize("sections", [(4,), (2, 3, 3), (2, 2, 0), (0, 0, 5), (1, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_table(dtype: torch.dtype, sections: tuple[int, ...]) -> None:
    axes = torch.repeat_interleave(torch.arange(len(sections)), torch.tensor(sections))
    inv_freq = frequencies(2 * len(axes))
    positions = torch.randint(0, 30000, (len(sections), 11))
    cos, sin = rotary_table(positions, inv_freq, axes, dtype)
    turns = []
    for n in range(11):
        angles = [np.float32(positions[a, n].item()) * np.float32(f.item()) for a, f in zip(axes, inv_freq, strict=True)]
        turns.append([cmath.exp(1j * float(angle)) for angle in angles])
    truth = torch.tensor(turns, dtype=torch.complex128)
    assert_near(cos, truth.real, truth.real.to(dtype))
    assert_near(sin, truth.imag, truth.imag.to(dtype))


def test_table_takes_fractions() -> None:
    positions, inv_freq, axes = torch.tensor([[0.25, 1.5]]), torch.ones(1), torch.zeros(1, dtype=torch.long)
    cos, _ = rotary_table(positions, inv_freq, axes, torch.float32)
    torch.testing.assert_close(cos, positions.T.cos())


def turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Each pair is a complex number; its angle is added."""
    x, turn = x.double(), torch.complex(cos.double(), sin.double())[:, None]
    D = x.shape[-1]
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., : D // 2], x[..., D // 2 :])
    y = torch.complex(first, second) * turn
    out = torch.empty_like(x)
    for i in range(D // 2):
        at = (2 * i, 2 * i + 1) if interleaved else (i, i + D // 2)
        out[..., at[0]], out[..., at[1]] = y[..., i].real, y[..., i].imag
    return out


def own(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """torch's answer with the roundings of the wider dtype."""
    D = x.shape[-1]
    order = torch.arange(D).view(-1, 2).T.flatten() if interleaved else torch.arange(D)
    y = x[..., order]
    other = torch.cat((-y[..., D // 2 :], y[..., : D // 2]), -1)
    y = y * torch.cat((cos, cos), -1)[:, None] + other * torch.cat((sin, sin), -1)[:, None]
    return y[..., order.argsort()].to(x.dtype)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (7, 3, 14), (2, 5, 1, 16)])
@pytest.mark.parametrize(
    ("dtype", "table"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_rotate(shape: tuple[int, ...], interleaved: bool, dtype: torch.dtype, table: torch.dtype) -> None:
    *_, T, _, D = shape
    x = torch.randn(shape).to(dtype)
    axes = torch.zeros(D // 2, dtype=torch.long)
    cos, sin = rotary_table(torch.randint(0, 999, (1, T)), frequencies(D), axes, table)
    got = rotate(x, cos, sin, interleaved=interleaved)
    assert_near(got, turned(x, cos, sin, interleaved), own(x, cos, sin, interleaved))


def test_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 12)
    axes = torch.zeros(6, dtype=torch.long)

    def score(i: int, j: int) -> Tensor:
        cos, sin = rotary_table(torch.tensor([[i, j]]), frequencies(12), axes, torch.float32)
        return (rotate(q, cos[:1], sin[:1]) * rotate(k, cos[1:], sin[1:])).sum()

    torch.testing.assert_close(score(3, 9), score(103, 109), rtol=0, atol=1e-4)


@pytest.mark.parametrize("D", [6, 32, 76])
@pytest.mark.parametrize(
    ("dtype", "table_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_rotate_write(dtype: torch.dtype, table_dtype: torch.dtype, D: int) -> None:
    q, k, v = torch.randn(5, 8, D).to(dtype).split((4, 2, 2), 1)
    axes = torch.zeros(D // 2, dtype=torch.long)
    cos, sin = rotary_table(torch.randint(0, 999, (1, 5)), frequencies(D), axes, table_dtype)
    table = BlockTable.of([3, 2], [1, 0], [[2, 4], [0]], 3, torch.device("cpu"))
    got, want = (torch.full((2, 5, 3, 2, D), 7, dtype=dtype) for _ in "gw")
    rows = rotate_write(q, k, v, cos, sin, got[0], got[1], table)
    write_rows(turned(k, cos, sin, False), v, want[0], want[1], table.slots)
    assert_near(rows, turned(q, cos, sin, False), own(q, cos, sin, False))
    written = got[0].view(-1, 2, D)[table.slots]
    assert_near(written, turned(k, cos, sin, False), own(k, cos, sin, False))
    got[0].view(-1, 2, D)[table.slots] = want[0].view(-1, 2, D)[table.slots]
    assert torch.equal(got, want)  # values, and nothing beside them
