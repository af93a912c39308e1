"""Attention in Triton: a kernel for packed rows and blocks, and one that merges splits. Contracts: `kernels/attention.py`.

The query heads that share a key head are folded into rows: tile row m of a sequence is head m % G of its row m // G. A
program takes a tile of such rows and walks over the keys that they see: first those that all of them see, then those at an
edge of the mask. The grid is (sequence x tile of the longest one, key head, split); programs past the end of a sequence
return at once, so that nothing on the device is read to size it.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.block_table import BlockTable
from omni.kernels.fused import tuning
from omni.kernels.segments import BlockMask, Segments

FAR: tl.constexpr = tl.constexpr(-1.0e30)


@triton.jit
def split_len(kv_len, num_splits, BN: tl.constexpr):
    """Keys of each split of a sequence, a multiple of BN."""
    return tl.cdiv(tl.cdiv(kv_len, num_splits), BN) * BN


@triton.jit
def key_pointers(p_x, start, kv_len, p_blocks, s_block, s_row, P: tl.constexpr, BN: tl.constexpr):
    """Of the BN keys from `start` on, `[BN, 1]`; those past kv_len must not be read."""
    o_n = tl.arange(0, BN)
    if P == 0:
        p_rows = p_x + tl.cast(start, tl.int64) * s_row + (o_n * s_row)[:, None]
    elif P % BN == 0:
        block = tl.load(p_blocks + start // P).to(tl.int64)
        p_rows = p_x + block * s_block + (start % P) * s_row + (o_n * s_row)[:, None]
    else:
        at = start + o_n
        block = tl.load(p_blocks + at // P, mask=at < kv_len, other=0).to(tl.int64)  # [BN]
        p_rows = p_x + (block * s_block + (at % P) * s_row)[:, None]
    return p_rows


@triton.jit
def walk(
    b_acc, b_rest, b_sum, b_pivot, b_q, b_q_rest,
    p_k, p_v, p_blocks, s_kp, s_kn, s_vp, s_vn,
    lo, hi, kv_len, o_pos, scale,
    D: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr, P: tl.constexpr,
    CAUSAL: tl.constexpr, SIZE: tl.constexpr, BACK: tl.constexpr, AHEAD: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Take in the keys from lo to hi; with EDGE some rows do not see some of them."""
    o_d, o_e = tl.arange(0, BD), BD + tl.arange(0, BE if BE > 0 else 1)
    for start in range(lo, hi, BN):
        o_n = start + tl.arange(0, BN)
        m_n = (o_n < kv_len)[:, None]
        m_d = m_n if D >= BD else m_n & (o_d < D)[None, :]
        m_e = m_n if D == BD + BE else m_n & (o_e < D)[None, :]
        p_rows = key_pointers(p_k, start, kv_len, p_blocks, s_kp, s_kn, P, BN)
        b_k = tl.load(p_rows + o_d[None, :], mask=m_d, other=0.0)  # [BN, BD]
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")  # [BM, BN]
        if BE > 0:
            b_k_rest = tl.load(p_rows + o_e[None, :], mask=m_e, other=0.0)  # [BN, BE]
            b_s = tl.dot(b_q_rest, tl.trans(b_k_rest), b_s, input_precision="ieee")
        if EDGE:
            m_s = (o_n < kv_len)[None, :]
            if CAUSAL:
                m_s = m_s & (o_n[None, :] <= o_pos[:, None])
            if SIZE > 0:
                ahead = (o_n // SIZE)[None, :] - (o_pos // SIZE)[:, None]
                m_s = m_s & (ahead >= -BACK) & (ahead <= AHEAD)
            b_s = tl.where(m_s, b_s, float("-inf"))
        b_new = tl.maximum(b_pivot, tl.max(b_s, 1) * scale)  # finite, also of a row that sees no key yet
        b_p = tl.math.exp2(b_s * scale - b_new[:, None])
        b_decay = tl.math.exp2(b_pivot - b_new)
        b_sum = b_sum * b_decay + tl.sum(b_p, 1)
        b_pivot = b_new
        p_rows = key_pointers(p_v, start, kv_len, p_blocks, s_vp, s_vn, P, BN)
        b_v = tl.load(p_rows + o_d[None, :], mask=m_d, other=0.0)  # [BN, BD]
        b_p = b_p.to(b_v.dtype)
        b_acc = tl.dot(b_p, b_v, b_acc * b_decay[:, None], input_precision="ieee")  # [BM, BD]
        if BE > 0:
            b_v_rest = tl.load(p_rows + o_e[None, :], mask=m_e, other=0.0)  # [BN, BE]
            b_rest = tl.dot(b_p, b_v_rest, b_rest * b_decay[:, None], input_precision="ieee")  # [BM, BE]
    return b_acc, b_rest, b_sum, b_pivot


@triton.jit(do_not_specialize=["num_tiles", "num_splits", "N", "s_table"])
def attend_kernel(
    p_q, p_k, p_v, p_out, p_pivot, p_sum, p_cu_len, p_kv_len, p_blocks,
    s_qn, s_qh, s_kp, s_kn, s_kh, s_vp, s_vn, s_vh, s_table, scale, N, H, num_tiles, num_splits,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    P: tl.constexpr, CAUSAL: tl.constexpr, SIZE: tl.constexpr, BACK: tl.constexpr, AHEAD: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one sequence and key head, and one split of its keys.

    P is 0 for packed keys, SIZE is 0 without a block mask. scale is for scores in powers of two. With SPLIT, `p_out` gets
    float32 sums `[num_splits, N, H, D]` that are not divided yet, `p_pivot` and `p_sum` `[num_splits, N, H]`.
    """
    i_b, i_t = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles
    i_k, i_s = tl.program_id(1).to(tl.int64), tl.program_id(2)
    if CAUSAL:
        i_t = num_tiles - 1 - i_t  # those with the most keys start first
    first = tl.load(p_cu_len + i_b)
    q_len = tl.load(p_cu_len + i_b + 1) - first
    if i_t * BM >= q_len * G:
        return
    if P == 0:
        kv_len = q_len
        p_k += first.to(tl.int64) * s_kn
        p_v += first.to(tl.int64) * s_vn
    else:
        kv_len = tl.load(p_kv_len + i_b)
        p_blocks += i_b.to(tl.int64) * s_table
    p_k += i_k * s_kh
    p_v += i_k * s_vh
    row = i_t * BM // G
    o_m = i_t * BM % G + tl.arange(0, BM)
    o_row, o_head = o_m // G, o_m % G  # from the tile's first row and key head on, so that 32 bits do
    m_m = o_row < q_len - row
    first_pos = kv_len - q_len + row
    o_pos = first_pos + o_row
    last_pos = tl.minimum(first_pos + (i_t * BM % G + BM - 1) // G, kv_len - 1)

    lo, hi = 0, kv_len
    if CAUSAL:
        hi = last_pos + 1
    if SIZE > 0:
        lo = tl.maximum(first_pos // SIZE - BACK, 0) * SIZE
        hi = tl.minimum((last_pos // SIZE + AHEAD + 1) * SIZE, kv_len)
    if SPLIT:
        lo = i_s * split_len(kv_len, num_splits, BN)
        if lo >= kv_len:
            return
        hi = tl.minimum(hi, lo + split_len(kv_len, num_splits, BN))

    o_d = tl.arange(0, BD)
    m_d = m_m[:, None] if D >= BD else m_m[:, None] & (o_d < D)[None, :]
    p_q += (first + row).to(tl.int64) * s_qn + i_k * G * s_qh
    p_rows = p_q + (o_row * s_qn + o_head * s_qh)[:, None]
    b_q = tl.load(p_rows + o_d[None, :], mask=m_d, other=0.0)  # [BM, BD]
    b_acc = tl.zeros((BM, BD), tl.float32)
    b_q_rest, b_rest = b_q, b_acc
    if BE > 0:
        o_e = BD + tl.arange(0, BE)
        m_e = m_m[:, None] if D == BD + BE else m_m[:, None] & (o_e < D)[None, :]
        b_q_rest = tl.load(p_rows + o_e[None, :], mask=m_e, other=0.0)  # [BM, BE]
        b_rest = tl.zeros((BM, BE), tl.float32)
    b_sum = tl.zeros((BM,), tl.float32)
    b_pivot = tl.full((BM,), FAR, tl.float32)
    if SIZE == 0 and BM > 64:  # with few rows or keys a second walk costs more time than it saves
        seen = hi
        if CAUSAL:
            seen = tl.minimum(hi, first_pos + 1)
        seen = lo + tl.maximum(seen - lo, 0) // BN * BN
        b_acc, b_rest, b_sum, b_pivot = walk(
            b_acc, b_rest, b_sum, b_pivot, b_q, b_q_rest, p_k, p_v, p_blocks, s_kp, s_kn, s_vp, s_vn,
            lo, seen, kv_len, o_pos, scale, D, BD, BE, BN, P, CAUSAL, SIZE, BACK, AHEAD, False,
        )  # fmt: skip
        lo = seen
    b_acc, b_rest, b_sum, b_pivot = walk(
        b_acc, b_rest, b_sum, b_pivot, b_q, b_q_rest, p_k, p_v, p_blocks, s_kp, s_kn, s_vp, s_vn,
        lo, hi, kv_len, o_pos, scale, D, BD, BE, BN, P, CAUSAL, SIZE, BACK, AHEAD, True,
    )  # fmt: skip

    at = (first + row).to(tl.int64) * H + i_k * G
    o_m = o_row * H + o_head
    if SPLIT:
        at += i_s.to(tl.int64) * N * H
        tl.store(p_pivot + at + o_m, b_pivot, mask=m_m)
        tl.store(p_sum + at + o_m, b_sum, mask=m_m)
    else:
        b_sum = tl.maximum(b_sum, 1.0e-30)  # 0 without a key
        b_acc /= b_sum[:, None]
        if BE > 0:
            b_rest /= b_sum[:, None]
    p_rows = p_out + at * D + (o_m * D)[:, None]
    tl.store(p_rows + o_d[None, :], b_acc.to(p_out.dtype.element_ty), mask=m_d)
    if BE > 0:
        tl.store(p_rows + o_e[None, :], b_rest.to(p_out.dtype.element_ty), mask=m_e)


@triton.jit(do_not_specialize=["max_len", "num_splits", "N"])
def merge_kernel(
    p_parts, p_pivot, p_sum, p_out, p_cu_len, p_kv_len, N, H, max_len, num_splits,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """One row and head: the sum of what the splits found, each at its own pivot."""
    i_b, i_row = tl.program_id(0) // max_len, tl.program_id(0) % max_len
    first = tl.load(p_cu_len + i_b)
    if i_row >= tl.load(p_cu_len + i_b + 1) - first:
        return
    kv_len = tl.load(p_kv_len + i_b)
    o_s, o_d = tl.arange(0, BS), tl.arange(0, BD)
    m_s = o_s * split_len(kv_len, num_splits, BN) < kv_len
    o_row = (o_s.to(tl.int64) * N + first + i_row) * H + tl.program_id(1)
    b_pivot = tl.load(p_pivot + o_row, mask=m_s, other=FAR)  # [BS]
    b_weight = tl.math.exp2(b_pivot - tl.max(b_pivot, 0))
    b_sum = tl.load(p_sum + o_row, mask=m_s, other=0.0)  # [BS]
    m = m_s[:, None] & (o_d < D)[None, :]
    b_parts = tl.load(p_parts + o_row[:, None] * D + o_d[None, :], mask=m, other=0.0)  # [BS, BD]
    total = tl.maximum(tl.sum(b_weight * b_sum, 0), 1.0e-30)
    b_out = tl.sum(b_weight[:, None] * b_parts, 0) / total
    o_out = (first.to(tl.int64) + i_row) * H + tl.program_id(1)
    tl.store(p_out + o_out * D + o_d, b_out.to(p_out.dtype.element_ty), mask=o_d < D)


def parts(D: int) -> tuple[int, int]:
    """Powers of two that cover D: one, or a second one where that is less in all (80 = 64 + 16)."""
    whole = max(16, triton.next_power_of_2(D))
    first = whole // 2
    rest = max(16, triton.next_power_of_2(D - first))
    return (first, rest) if first + rest < whole else (whole, 0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, block: BlockMask | None, scale: float | None
) -> Tensor:
    assert q.shape[0] == k.shape[0] == v.shape[0] == segments.num_rows
    return _launch(q, k, v, segments, None, causal, block, scale)


def attend_paged(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> Tensor:
    assert q.shape[0] == table.segments.num_rows
    return _launch(q, k_cache, v_cache, table.segments, table, True, None, None)


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    table: BlockTable | None,
    causal: bool,
    block: BlockMask | None,
    scale: float | None,
) -> Tensor:
    """Packed keys `[N, K, D]`, or with a table blocks of them `[num_blocks, P, K, D]`."""
    (N, H, D), K = q.shape, k.shape[-2]
    assert D <= 128 and H % K == 0 and k.shape == v.shape and q.dtype == k.dtype == v.dtype
    assert scale is None or scale > 0, "the pivot is the largest score times the scale"
    if scale is None:
        scale = D**-0.5
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    G, max_len, (BD, BE) = H // K, max(segments.lens), parts(D)
    size, back, ahead = block or (0, 0, 0)
    tile = tuning.attention_tile(min(max_len * G, 64) if block else max_len * G, q.dtype)  # a band of blocks is narrow
    num_tiles, num_stages = triton.cdiv(max_len * G, tile.BM), tile.num_stages
    cu_len, kv_len, blocks, P, num_splits = segments.cu_len, None, None, 0, 1
    if table is not None:
        kv_len, blocks, P = table.kv_len, table.blocks, k.shape[1]
        num_splits = tuning.attention_splits(num_tiles * len(segments.lens) * K, P * blocks.shape[1])
        num_stages = 2 * num_stages - 1  # the number of a block is a load before the load
    out = q.new_empty(N, H, D)
    found, pivot, total = out, None, None
    if num_splits > 1:
        found = q.new_empty(num_splits, N, H, D, dtype=torch.float32)
        pivot, total = q.new_empty(2, num_splits, N, H, dtype=torch.float32)
    attend_kernel[(num_tiles * len(segments.lens), K, num_splits)](
        q, k, v, found, pivot, total, cu_len, kv_len, blocks,
        q.stride(0), q.stride(1), k.stride(0), k.stride(-3), k.stride(-2), v.stride(0), v.stride(-3), v.stride(-2),
        0 if blocks is None else blocks.stride(0), scale * math.log2(math.e), N, H, num_tiles, num_splits,
        G=G, D=D, BD=BD, BE=BE, BM=tile.BM, BN=tile.BN, P=P, CAUSAL=causal, SIZE=size, BACK=back, AHEAD=ahead,
        SPLIT=num_splits > 1, num_warps=tile.num_warps, num_stages=num_stages,
    )  # fmt: skip
    if num_splits > 1:
        merge_kernel[(max_len * len(segments.lens), H)](
            found, pivot, total, out, cu_len, kv_len, N, H, max_len, num_splits,
            D=D, BD=triton.next_power_of_2(D), BN=tile.BN, BS=tuning.MOST_SPLITS,
        )  # fmt: skip
    return out
