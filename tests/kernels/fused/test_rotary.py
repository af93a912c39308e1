from __future__ import annotations

import pytest
import torch

from omni.kernels import BlockTable
from omni.kernels.fused import rotary as fused
from omni.kernels.plain import rotary as plain
from tests.kernels.near import assert_near

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def angles(T: int, D: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.randint(0, 999, (T, 1)) * 1e4 ** -(torch.arange(0, D, 2).float() / D)
    return angle.cos().to(dtype), angle.sin().to(dtype).T.contiguous().T  # the second at another distance


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 14), (2, 3, 11, 16), (0, 2, 4)])
@pytest.mark.parametrize(("dtype", "table"), [*zip(DTYPES, DTYPES, strict=True), (torch.bfloat16, torch.float32)])
def test_rotate(
    shape: tuple[int, ...], interleaved: bool, dtype: torch.dtype, table: torch.dtype, device: torch.device
) -> None:
    *lead, H, D = shape
    x = torch.randn(*lead, H + 2, D).to(dtype)[..., :H, :]  # as a fused projection leaves it
    cos, sin = angles(shape[-3], D, table)
    got = fused.rotate(x.to(device), cos.to(device), sin.to(device), interleaved).cpu()
    if x.numel():
        truth = plain.rotate(x.double(), cos.double(), sin.double(), interleaved)
        assert_near(got, truth, plain.rotate(x, cos, sin, interleaved))
    assert got.shape == x.shape


# rows, heads, key heads, head size: decoding, the talker's shape, more key heads than a program takes
@pytest.mark.parametrize(("N", "H", "K", "D"), [(1, 7, 1, 16), (5, 14, 2, 6), (2, 9, 9, 10)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_write(dtype: torch.dtype, N: int, H: int, K: int, D: int, device: torch.device) -> None:
    q, k, v = torch.randn(N, H + 2 * K, D).to(dtype).to(device).split((H, K, K), 1)
    table = BlockTable.of([N], [1], [[4, 1, 3]], 3, device)
    cos, sin = angles(N, D, dtype)
    caches = [torch.full((6, 3, K, D), torch.nan, dtype=dtype) for _ in "kvkv"]
    theirs = [x.to(device) for x in caches[:2]]
    turned = fused.rotate_write(q, k, v, cos.to(device), sin.to(device), *theirs, table.slots).cpu()
    own = plain.rotate_write(q.cpu(), k.cpu(), v.cpu(), cos, sin, *caches[2:], table.slots.cpu())
    exact = [x.double() for x in caches[:2]]
    wide = (x.cpu().double() for x in (q, k, v, cos, sin))
    assert_near(turned, plain.rotate_write(*wide, *exact, table.slots.cpu()), own)
    assert torch.equal(theirs[1].cpu().nan_to_num(7), caches[3].nan_to_num(7))  # values, and nothing beside them
    written = ~caches[2].isnan()
    assert torch.equal(~theirs[0].cpu().isnan(), written)
    assert_near(theirs[0].cpu()[written], exact[0][written], caches[2][written])
