from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from omni.kernels import BlockMask, BlockTable, Segments, attend, attend_paged
from tests.kernels.cache import write_rows
from tests.kernels.near import assert_near

pytestmark = pytest.mark.usefixtures("way")

DTYPES = [torch.float32, torch.bfloat16]
HEADS = [(4, 4, 16), (6, 2, 20), (7, 1, 8)]
RAGGED = (5, 5, 5, 3, 3, 1, 17)


def draw(rows: int, H: int, K: int, D: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(rows, n, D) for n in (H, K, K))
    return (1.5 * q).to(dtype), k.to(dtype), v.to(dtype)


def mask(lens: tuple[int, ...], causal: bool = False, block: BlockMask | None = None) -> Tensor:
    """Which row sees which, over all packed rows."""
    N = sum(lens)
    sees = torch.zeros(N, N, dtype=torch.bool)
    start = 0
    for n in lens:
        for i, j in product(range(n), repeat=2):
            seen = j <= i if causal else True
            if block is not None:
                seen = -block.back <= j // block.size - i // block.size <= block.ahead
            sees[start + i, start + j] = seen
        start += n
    return sees


def dense(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float | None = None) -> Tensor:
    """Attention head by head, in the dtype of its arguments but for the softmax."""
    H, D, K = q.shape[1], q.shape[2], k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    out = []
    for h in range(H):
        scores = q[:, h] @ k[:, h // (H // K)].T * (D**-0.5 if scale is None else scale)
        weights = scores.to(wide).masked_fill(~sees, -torch.inf).softmax(-1).to(q.dtype)
        out.append(weights @ v[:, h // (H // K)])
    return torch.stack(out, 1)


def check(got: Tensor, q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float | None = None) -> None:
    orders = [torch.arange(q.shape[-1]), *(torch.randperm(q.shape[-1]) for _ in range(4))]
    own = (dense(q[..., order], k[..., order], v, sees, scale) for order in orders)
    assert_near(got, dense(q.double(), k.double(), v.double(), sees, scale), *own)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lens", [(1,), (37,), RAGGED])
def test_attend(lens: tuple[int, ...], causal: bool, heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    q, k, v = draw(sum(lens), *heads, dtype)
    check(attend(q, k, v, Segments.of(lens), causal=causal), q, k, v, mask(lens, causal))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lens", [(1,), (23,), (24,), (25,), (61,), (25, 25, 61, 1)])
@pytest.mark.parametrize(("back", "ahead"), list(product(range(3), repeat=2)))
def test_attend_blocks(back: int, ahead: int, lens: tuple[int, ...], dtype: torch.dtype) -> None:
    block = BlockMask(24, back, ahead)
    q, k, v = draw(sum(lens), 3, 1, 10, dtype)
    check(attend(q, k, v, Segments.of(lens), block=block), q, k, v, mask(lens, block=block))


def test_attend_scale() -> None:
    q, k, v = draw(29, 3, 3, 12, torch.float32)
    for block in (None, BlockMask(7, 1, 0)):
        got = attend(q, k, v, Segments.of([29]), block=block, scale=0.7)
        check(got, q, k, v, mask((29,), block=block), 0.7)


def test_attend_strided() -> None:
    q, k, v = torch.randn(22, 3, 2, 12).unbind(1)  # as a fused projection leaves them
    for block in (None, BlockMask(5, 1, 1)):
        check(attend(q, k, v, Segments.of([11, 11]), block=block), q, k, v, mask((11, 11), block=block))


def test_attend_takes_one_mask() -> None:
    q, k, v = draw(3, 1, 1, 4, torch.float32)
    with pytest.raises(AssertionError, match="causal or by blocks"):
        attend(q, k, v, Segments.of([3]), causal=True, block=BlockMask(2, 0, 0))


# Steps of three sequences, (rows of A, B, C): all end at 13, 6 and 21 rows.
SCHEDULES = {
    "whole": [(13, 6, 21)],
    "chunks": [(5, 6, 8), (7, 0, 5), (1, 0, 8)],
    "decode": [(1, 1, 1)] * 6 + [(1, 0, 1)] * 7 + [(0, 0, 1)] * 8,
    "mixed": [(12, 0, 4), (1, 5, 1), (0, 1, 16)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=list(SCHEDULES))
@pytest.mark.parametrize("lie", ["scattered", "in one piece"])
def test_attend_paged(lie: str, schedule: list[tuple[int, ...]], heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    P, (_, K, D) = 4, heads
    lens = (13, 6, 21)
    whole = [draw(n, *heads, dtype) for n in lens]
    order = (1 + (torch.randperm(12) if lie == "scattered" else torch.arange(12))).tolist()  # blocks 0 and 13 are nobody's
    blocks = [order[:4], order[4:6], order[6:12]]
    k_cache, v_cache = (torch.full((14, P, K, D), torch.nan, dtype=dtype) for _ in "kv")
    outs: list[list[Tensor]] = [[], [], []]
    past = [0, 0, 0]
    for step in schedule:
        active = [i for i, n in enumerate(step) if n]
        new = [step[i] for i in active]
        table = BlockTable.of(new, [past[i] for i in active], [blocks[i] for i in active], P, torch.device("cpu"))
        q, k, v = (torch.cat([whole[i][x][past[i] : past[i] + step[i]] for i in active]) for x in range(3))
        write_rows(k, v, k_cache, v_cache, table.slots)
        for i, rows in zip(active, attend_paged(q, k_cache, v_cache, table).split(new), strict=True):
            outs[i].append(rows)
            past[i] += step[i]
    assert tuple(past) == lens
    for parts, (q, k, v), n in zip(outs, whole, lens, strict=True):
        check(torch.cat(parts), q, k, v, mask((n,), causal=True))


@pytest.mark.parametrize("heads", [(16, 2, 128), (9, 1, 64), (3, 3, 256), (2, 1, 272)])
@pytest.mark.parametrize("lens", [(1,), (32,), (33,), (150, 5)])
def test_a_row_over_many_blocks(lens: tuple[int, ...], heads: tuple[int, int, int]) -> None:
    """The last row of each sequence, with more query heads, keys and components than are taken at once."""
    P, (H, K, D) = 64, heads
    dtype = torch.bfloat16
    whole = [draw(n, H, K, D, dtype) for n in lens]
    blocks = [[5, 1, 3], [2]][: len(lens)]
    k_cache, v_cache = (torch.full((6, P, K, D), torch.nan, dtype=dtype) for _ in "kv")
    filled = BlockTable.of(lens, [0] * len(lens), blocks, P, torch.device("cpu"))
    write_rows(torch.cat([k for _, k, _ in whole]), torch.cat([v for _, _, v in whole]), k_cache, v_cache, filled.slots)
    table = BlockTable.of([1] * len(lens), [n - 1 for n in lens], blocks, P, torch.device("cpu"))
    got = attend_paged(torch.cat([q[-1:] for q, _, _ in whole]), k_cache, v_cache, table)
    for row, (q, k, v), n in zip(got, whole, lens, strict=True):
        check(row[None], q[-1:], k, v, torch.ones(1, n, dtype=torch.bool))
