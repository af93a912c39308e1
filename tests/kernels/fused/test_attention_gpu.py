"""The contracts on a GPU, at the sizes of the published models, where they must choose the Triton twin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omni.kernels import BlockMask, BlockTable, Segments, attend, attend_paged
from omni.kernels.dispatch import twin
from omni.kernels.fused import attention as fused
from omni.kernels.plain import attention as plain
from tests.kernels.near import assert_near

pytestmark = pytest.mark.gpu
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


def test_twin(device: torch.device) -> None:
    x = torch.zeros(1, 1, 1, device=device)
    assert twin(plain.attend, x, x, x, Segments.of([1], device), False, None, None) is fused.attend


def randn(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


@dtypes
@pytest.mark.parametrize(
    ("lens", "H", "D", "causal", "block"),
    [
        ((64,) * 70 + (16, 48), 16, 80, False, None),
        ((2500, 84), 16, 80, False, None),
        ((100,) * 15 + (7,), 20, 64, False, None),
        ((481, 481), 16, 64, False, BlockMask(24, 0, 0)),
        ((481, 481), 16, 64, False, BlockMask(24, 1, 0)),
        ((481, 481), 16, 64, False, BlockMask(24, 0, 1)),
        ((1027,), 16, 128, True, None),
    ],
)
def test_attend(
    lens: tuple[int, ...],
    H: int,
    D: int,
    causal: bool,
    block: BlockMask | None,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    q, k, v = randn(sum(lens), 3, H, D, dtype=dtype, device=device).unbind(1)
    segments = Segments.of(lens, device)
    truth, own = (plain.attend(*x, segments, causal, block, None) for x in ((q.double(), k.double(), v.double()), (q, k, v)))
    assert_near(attend(q, k, v, segments, causal=causal, block=block), truth, own)


def pool(
    lens: tuple[int, ...], K: int, D: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Keys and values `[num_blocks, 64, K, D]` with NaN where no row lies, and the blocks of each sequence."""
    num = [-(-n // 64) for n in lens]
    blocks = [part.tolist() for part in torch.randperm(sum(num)).split(num)]
    cache = randn(2, sum(num), 64, K, D, dtype=dtype, device=device)
    for n, row in zip(lens, blocks, strict=True):
        cache[:, row[-1], n - 64 * (len(row) - 1) :] = torch.nan
    return cache[0], cache[1], blocks


@dtypes
@pytest.mark.parametrize("heads", [(28, 4, 128), (16, 2, 128), (14, 2, 64)])
@pytest.mark.parametrize(
    ("new", "past"),
    [
        ((1,), (3000,)),
        ((1,) * 33, tuple(range(0, 33 * 17, 17))),
        ((5,), (2000,)),
        ((700, 1, 30), (0, 90, 801)),
    ],
)
def test_attend_paged(
    new: tuple[int, ...], past: tuple[int, ...], heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    lens = tuple(n + p for n, p in zip(new, past, strict=True))
    k, v, blocks = pool(lens, *heads[1:], dtype, device)
    table = BlockTable.of(new, past, blocks, 64, device)
    H, K, D = heads
    q = randn(sum(new), H + 2 * K, D, dtype=dtype, device=device)[:, :H]
    truth, own = plain.attend_paged(q.double(), k.double(), v.double(), table), plain.attend_paged(q, k, v, table)
    assert_near(attend_paged(q, k, v, table), truth, own)


@pytest.mark.parametrize("longest", [100, 4000])
def test_attend_paged_in_a_graph(longest: int, device: torch.device) -> None:
    """One capture serves every later length and block."""
    lens = (longest, 3 + longest // 7)
    k, v, blocks = pool(lens, 4, 128, torch.bfloat16, device)
    table = BlockTable.of((1, 1), [n - 1 for n in lens], blocks, 64, device)
    q = randn(2, 28, 128, dtype=torch.bfloat16, device=device)
    attend_paged(q, k, v, table)
    held = replace(table, kv_len=table.kv_len.clone(), blocks=table.blocks.clone())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = attend_paged(q, k, v, held)
    for order, cut in ((1, 0), (-1, 0), (1, 9)):
        now = BlockTable.of((1, 1), [n - 1 - cut for n in lens[::order]], blocks[::order], 64, device)
        held.kv_len.copy_(now.kv_len)
        held.blocks.copy_(now.blocks)
        graph.replay()
        truth, own = plain.attend_paged(q.double(), k.double(), v.double(), now), plain.attend_paged(q, k, v, now)
        assert_near(got, truth, own)
