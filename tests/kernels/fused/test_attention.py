from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni.kernels import BlockMask, BlockTable, Segments
from omni.kernels.fused import attention as fused
from omni.kernels.fused import tuning
from tests.kernels import aot
from tests.kernels.cache import write_rows
from tests.kernels.near import assert_near

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
Heads = tuple[int, int, int]
Built = dict[str, dict[str, list[aot.Facts]]]


@pytest.fixture(params=[(F32, 80), (F16, 90), (BF16, 80), (BF16, 90)], ids=lambda p: f"{str(p[0])[6:]}-sm_{p[1]}")
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """With the tiles of an architecture where kernels are interpreted; a GPU keeps its own."""
    found, capability = request.param
    if not torch.cuda.is_available():
        monkeypatch.setattr(tuning, "capability", lambda: capability)
    assert isinstance(found, torch.dtype)
    return found


def draw(rows: int, heads: Heads, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    H, K, D = heads
    q, k, v = (torch.randn(rows, n, D) for n in (H, K, K))
    return (1.5 * q).to(dtype), k.to(dtype), v.to(dtype)


def mask(lens: Sequence[int], causal: bool = False, block: BlockMask | None = None) -> Tensor:
    """Which row sees which, over all packed rows."""
    of = torch.repeat_interleave(torch.arange(len(lens)), torch.tensor(lens))
    at = torch.cat([torch.arange(n) for n in lens])
    sees = of[:, None] == of[None]
    if causal:
        sees &= at[None] <= at[:, None]
    if block is not None:
        ahead = (at // block.size)[None] - (at // block.size)[:, None]
        sees &= (ahead >= -block.back) & (ahead <= block.ahead)
    return sees


def dense(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float | None = None) -> Tensor:
    """Attention head by head, in the dtype of its arguments but for the softmax."""
    H, D, K = q.shape[1], q.shape[2], k.shape[1]
    wide = torch.promote_types(q.dtype, F32)
    out = []
    for h in range(H):
        scores = q[:, h] @ k[:, h // (H // K)].T * (D**-0.5 if scale is None else scale)
        weights = scores.to(wide).masked_fill(~sees, -torch.inf).softmax(-1).to(q.dtype)
        out.append(weights @ v[:, h // (H // K)])
    return torch.stack(out, 1)


def check(got: Tensor, q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float | None = None) -> None:
    orders = [torch.arange(q.shape[-1]), *(torch.randperm(q.shape[-1]) for _ in range(4))]
    own = (dense(q[..., order], k[..., order], v, sees, scale) for order in orders)
    assert_near(got.cpu(), dense(q.double(), k.double(), v.double(), sees, scale), *own)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lens: Sequence[int],
    device: torch.device,
    causal: bool = False,
    block: BlockMask | None = None,
    scale: float | None = None,
) -> Tensor:
    q, k, v = (x.to(device) for x in (q, k, v))
    return fused.attend(q, k, v, Segments.of(lens, device), causal, block, scale)


RAGGED = (5, 5, 3, 1, 70, 2)


@pytest.mark.parametrize(
    ("lens", "heads", "causal"),
    [
        ((1,), (4, 4, 64), False),
        ((7,), (4, 1, 80), True),
        ((64, 64, 16), (1, 1, 80), False),  # vision windows
        ((150, 3), (1, 1, 80), False),
        ((100, 9), (1, 1, 64), False),  # audio
        ((161,), (1, 1, 128), True),
        (RAGGED, (2, 2, 32), True),
        (RAGGED, (7, 1, 20), True),
        (RAGGED, (4, 1, 72), False),
    ],
)
def test_attend(lens: tuple[int, ...], heads: Heads, causal: bool, dtype: torch.dtype, device: torch.device) -> None:
    q, k, v = draw(sum(lens), heads, dtype)
    check(attend(q, k, v, lens, device, causal), q, k, v, mask(lens, causal))


@pytest.mark.parametrize("D", [8, 16, 24, 40, 48, 56, 88, 96, 104, 112, 120])
def test_attend_head_sizes(D: int, device: torch.device) -> None:
    q, k, v = draw(35, (2, 1, D), F32)
    check(attend(q, k, v, [35], device), q, k, v, mask([35]))


@pytest.mark.parametrize("lens", [(1,), (23,), (24,), (25,), (119, 25, 1)])
@pytest.mark.parametrize(("back", "ahead"), [(0, 0), (1, 0), (0, 1), (2, 1)])
def test_attend_blocks(back: int, ahead: int, lens: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    block = BlockMask(24, back, ahead)
    q, k, v = draw(sum(lens), (1, 1, 64), dtype)
    check(attend(q, k, v, lens, device, block=block), q, k, v, mask(lens, block=block))


@pytest.mark.parametrize("block", [None, BlockMask(7, 1, 0)])
def test_attend_scale(block: BlockMask | None, device: torch.device) -> None:
    q, k, v = draw(29, (3, 3, 12), F32)
    check(attend(q, k, v, [29], device, block=block, scale=0.7), q, k, v, mask([29], block=block), 0.7)


def test_attend_strided(device: torch.device) -> None:
    q, k, v = torch.randn(22, 3, 2, 40).unbind(1)  # as a fused projection leaves them
    check(attend(q, k, v, [11, 11], device), q, k, v, mask([11, 11]))
    k = k.transpose(1, 2).contiguous().transpose(1, 2)  # heads lie innermost
    check(attend(q, k, v, [11, 11], device), q, k, v, mask([11, 11]))


@pytest.mark.parametrize("block", [None, BlockMask(24, 1, 1)])
def test_attend_sees_no_neighbour(block: BlockMask | None, device: torch.device) -> None:
    q, k, v = draw(73, (2, 2, 64), F32)
    alone = attend(q[:33], k[:33], v[:33], [33], device, block=block)
    k[33:] *= 1e6
    v[33:] = torch.nan
    assert torch.equal(attend(q, k, v, [33, 40], device, block=block)[:33], alone)


def test_attend_of_large_scores(device: torch.device) -> None:
    """A softmax whose terms overflow or vanish without its pivot."""
    q, k, v = draw(70, (1, 1, 64), F32)
    got = attend(40 * q, 40 * k, v, [70], device, causal=True)
    check(got, 40 * q, 40 * k, v, mask([70], causal=True))


def paged(
    new: Sequence[int],
    past: Sequence[int],
    heads: Heads,
    dtype: torch.dtype,
    device: torch.device,
    P: int,
    spare: int = 0,
) -> tuple[tuple[Tensor, Tensor, Tensor, BlockTable], Tensor, Tensor]:
    """(arguments, truth, torch's own answer); what no sequence wrote is NaN. Each holds `spare` blocks beyond its rows."""
    _, K, D = heads
    lens = [n + p for n, p in zip(new, past, strict=True)]
    num = [-(-n // P) + spare for n in lens]
    order = 1 + torch.randperm(sum(num))  # blocks 0 and the last are nobody's
    blocks = [part.tolist() for part in order.split(num)]
    k_cache, v_cache = (torch.full((2 + sum(num), P, K, D), torch.nan, dtype=dtype) for _ in "kv")
    whole = [draw(n, heads, dtype) for n in lens]
    every = BlockTable.of(lens, [0] * len(lens), blocks, P, torch.device("cpu"))
    write_rows(torch.cat([k for _, k, _ in whole]), torch.cat([v for *_, v in whole]), k_cache, v_cache, every.slots)
    truth, own = [], []
    for (q, k, v), n in zip(whole, new, strict=True):
        sees = mask([len(q)], causal=True)[-n:]
        truth.append(dense(q[-n:].double(), k.double(), v.double(), sees))
        own.append(dense(q[-n:], k, v, sees))
    q = torch.cat([q[-n:] for (q, _, _), n in zip(whole, new, strict=True)])
    table = BlockTable.of(new, past, blocks, P, device)
    return (q.to(device), k_cache.to(device), v_cache.to(device), table), torch.cat(truth), torch.cat(own)


@pytest.mark.parametrize(
    ("new", "past", "splits"),
    [
        ((1,), (0,), 2),
        *product([(1, 1, 1)], [(140, 4, 63)], [1, 2, 5, 64]),  # decoding
        *product([(3,)], [(129,)], [1, 2, 5]),  # a chunk
        *product([(5, 1, 20)], [(60, 90, 0)], [1, 5]),
        *product([(40, 2)], [(0, 0)], [1, 3]),  # prefill
    ],
)
def test_attend_paged(
    new: tuple[int, ...], past: tuple[int, ...], splits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "attention_splits", lambda *_: splits)
    args, truth, own = paged(new, past, (2, 1, 32), F32, device, 16)
    assert_near(fused.attend_paged(*args).cpu(), truth, own)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    ("new", "past", "heads", "P"),
    [
        ((1, 1), (140, 4), (7, 1, 128), 64),
        ((10,), (65,), (7, 1, 64), 64),  # more than 64 rows of a tile
        ((5, 2), (60, 3), (4, 1, 80), 48),
        ((1, 3), (50, 0), (2, 2, 64), 4),
    ],
)
def test_attend_paged_dtypes(
    new: tuple[int, ...],
    past: tuple[int, ...],
    heads: Heads,
    P: int,
    splits: int,
    dtype: torch.dtype,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "attention_splits", lambda *_: splits)
    args, truth, own = paged(new, past, heads, dtype, device, P)
    assert_near(fused.attend_paged(*args).cpu(), truth, own)


def test_attend_paged_chooses_splits(device: torch.device) -> None:
    args, truth, own = paged((1,), (300,), (2, 1, 32), F32, device, 64)
    assert tuning.attention_splits(1, 320) > 1
    assert_near(fused.attend_paged(*args).cpu(), truth, own)


@pytest.mark.parametrize("splits", [1, 4])
def test_attend_paged_of_an_empty_sequence(splits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CUDA graph has them, with more places than sequences."""
    monkeypatch.setattr(tuning, "attention_splits", lambda *_: splits)
    (q, k_cache, v_cache, table), truth, own = paged((1, 1), (40, 40), (2, 1, 32), F32, device, 16)
    table.kv_len[1] = 0
    got = fused.attend_paged(q, k_cache, v_cache, table).cpu()
    assert_near(got[:1], truth[:1], own[:1])
    assert torch.equal(got[1], torch.zeros(2, 32))


@pytest.mark.parametrize("splits", [1, 4])
def test_attend_paged_follows_the_table(splits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph may change in place: the launch reads kv_len and blocks on the device, not the host's lengths."""
    monkeypatch.setattr(tuning, "attention_splits", lambda *_: splits)
    (q, k_cache, v_cache, table), truth, own = paged((1, 1), (99, 17), (4, 2, 32), F32, device, 16, spare=3)
    stale = replace(table, kv_lens=(1, 1), firsts=(0, 0), slots=torch.zeros_like(table.slots))
    assert_near(fused.attend_paged(q, k_cache, v_cache, stale).cpu(), truth, own)


@pytest.mark.parametrize("P", [16, 64])  # fewer rows than a tile has keys, and as many
def test_attend_paged_reaches_far(P: int, device: torch.device, tmp_path: Path) -> None:
    """Pages more than 2 ** 31 elements into the pool; its file has holes, so that it takes no memory."""
    K, D = 2, 32
    num_blocks = 2**31 // (P * K * D) + 3
    args, truth, own = paged((1, 2), (20, 3), (4, K, D), BF16, torch.device("cpu"), P)
    q, k_near, v_near, table = args
    last = num_blocks - len(k_near)
    pools = []
    for name, near in (("k", k_near), ("v", v_near)):
        size = num_blocks * P * K * D
        far = torch.from_file(str(tmp_path / name), shared=True, size=size, dtype=BF16).view(num_blocks, P, K, D)
        far[last:] = near
        pools.append(far.to(device))
    table = replace(
        table, blocks=(table.blocks + last).to(device), kv_len=table.kv_len.to(device), segments=Segments.of((1, 2), device)
    )
    assert_near(fused.attend_paged(q.to(device), pools[0], pools[1], table).cpu(), truth, own)


def test_parts_cover_the_head() -> None:
    for D in range(1, 129):
        first, rest = fused.parts(D)
        assert first + rest >= D
        assert rest == 0 or first < D
        assert all(n == 0 or (n >= 16 and n & (n - 1) == 0) for n in (first, rest))
    assert fused.parts(80) == (64, 16)


def test_splits_are_bounded() -> None:
    assert tuning.attention_splits(1, 1) == 1
    assert tuning.attention_splits(1, 10**6) == tuning.MOST_SPLITS
    assert tuning.attention_splits(10**6, 10**6) == 1


TENSOR_CORE = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


def check_builds(built: Built, capability: int) -> None:
    """One launch on tensor cores, a warp's own where 16 rows are too few for the newer ones, and one to merge splits."""
    cases = {case: by for case, by in built.items() if case.startswith("attend")}
    assert cases
    for case, by in cases.items():
        first, *merge = by[f"sm_{capability}"]
        assert set(TENSOR_CORE.values()) & set(first.opcodes) == {"HMMA" if "decode" in case else TENSOR_CORE[capability]}, (
            case
        )
        assert first.opcodes["LDGSTS"] > 0, f"{case}: keys are not read ahead"
        assert {"ld.128", "st.128"} <= set(first.vectors), case
        assert [facts.kernel for facts in merge] == ["merge_kernel"] * (first.grid[2] > 1), case


def check_fits(built: Built, capability: int, stack: int = 0) -> None:
    limit = 99 * 1024 if capability == 80 else aot.SHARED_LIMIT[capability]  # 8.6 and 8.9 take the tiles of 8.0
    for case, by in built.items():
        if case.startswith("attend"):
            for facts in by[f"sm_{capability}"]:
                assert facts.stack <= stack, f"{case}: {facts}"
                assert facts.shared <= limit, f"{case}: {facts}"


@pytest.mark.parametrize("capability", aot.CAPABILITIES)
def test_builds(built: Built, capability: int) -> None:
    check_builds(built, capability)
    check_fits(built, capability)


@pytest.mark.slow
def test_more_builds() -> None:
    built = aot.gate(f"{__package__}.slow_builds_attention")
    for capability in aot.CAPABILITIES:
        check_builds(built, capability)
        check_fits(built, capability)


@pytest.mark.slow
def test_float32_builds() -> None:
    built = aot.gate(f"{__package__}.slow_builds_attention_float32")
    for capability in aot.CAPABILITIES:
        check_fits(built, capability, stack=16 if capability == 80 else 0)  # ptxas stops at 128 registers, and puts 3 aside
