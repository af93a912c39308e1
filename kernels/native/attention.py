"""Attention for a CPU, by torch's own: neighbours of one length at once, windows of keys, and blocks read in place; one row
a sequence in C.

Contracts: `kernels/attention.py`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.block_table import BlockTable
from omni.kernels.native import build
from omni.kernels.segments import BlockMask, Segments
from omni.kernels.threads import num_threads


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, block: BlockMask | None, scale: float | None
) -> Tensor:
    assert q.shape[0] == k.shape[0] == v.shape[0] == segments.num_rows
    out = []
    for start, length, count in segments.runs():
        rows = slice(start, start + length * count)
        qr, kr, vr = (x[rows].unflatten(0, (count, length)) for x in (q, k, v))  # [count, length, H, D]
        if block is None:
            qh, kh, vh = (x.transpose(1, 2) for x in (qr, kr, vr))  # [count, H, length, D]
            y = F.scaled_dot_product_attention(
                qh, kh, vh, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            ).transpose(1, 2)
        else:
            y = _attend_blocks(qr, kr, vr, block, scale)
        out.append(y.flatten(0, 1))
    return out[0] if len(out) == 1 else torch.cat(out)


def _attend_blocks(q: Tensor, k: Tensor, v: Tensor, block: BlockMask, scale: float | None) -> Tensor:
    """One window of keys per block of queries, so that the work grows with T and not with its square."""
    size, back, ahead = block
    B, T, H, D = q.shape
    fill = -T % size
    if fill:
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, fill)) for x in (q, k, v))
    q, k, v = (x.unflatten(1, (-1, size)) for x in (q, k, v))  # [B, num_blocks, size, H or K, D]
    num_blocks = q.shape[1]
    if back or ahead:
        k, v = _windows(k, back, ahead), _windows(v, back, ahead)
    seen = _seen(B, T, num_blocks, block, q.device) if back or ahead or fill else None
    qh, kh, vh = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # [B * num_blocks, H or K, size or window, D]
    y = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=seen, scale=scale, enable_gqa=H != k.shape[3])
    return y.transpose(1, 2).reshape(B, num_blocks * size, H, D)[:, :T]


def _windows(x: Tensor, back: int, ahead: int) -> Tensor:
    """Each block between its neighbours, zeros at the ends: `[B, n, window, K, D]` from blocks `[B, n, size, K, D]`."""
    out = x.new_zeros(*x.shape[:2], back + 1 + ahead, *x.shape[2:])
    for i in range(back + 1 + ahead):
        step, num = i - back, x.shape[1]  # place i of block n holds block n + step
        first, last = max(0, -step), min(num, num - step)
        if first < last:
            out[:, first:last, i] = x[:, first + step : last + step]
    return out.flatten(2, 3)


@lru_cache(maxsize=16)
def _seen(B: int, T: int, num_blocks: int, block: BlockMask, device: torch.device) -> Tensor:
    """Which keys of its window a block sees, those inside the sequence: bool `[B * num_blocks, 1, 1, window]`.

    Kept, since every layer asks for the same few at every evaluation.
    """
    size, back, ahead = block
    first = torch.arange(-back, num_blocks - back, device=device)[:, None] * size
    at = first + torch.arange((back + 1 + ahead) * size, device=device)  # [num_blocks, window]
    return ((at >= 0) & (at < T)).repeat(B, 1)[:, None, None]


def attend_paged(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> Tensor:
    if _is_decode(q, k_cache, v_cache, table):
        return _decode(q, k_cache, v_cache, table)
    N, H, D = q.shape
    P, K = k_cache.shape[1:3]
    out = torch.empty_like(q)
    start = 0
    for b, (q_len, kv_len) in enumerate(zip(table.segments.lens, table.kv_lens, strict=True)):
        first, blocks = table.firsts[b], table.blocks[b, : -(-kv_len // P)]
        held = slice(first, first + len(blocks)) if first >= 0 else blocks  # in one piece nothing is copied
        k = k_cache[held].flatten(0, 1)[:kv_len].transpose(0, 1)[None]  # [1, K, kv_len, D]
        v = v_cache[held].flatten(0, 1)[:kv_len].transpose(0, 1)[None]
        rows = q[start : start + q_len]
        if q_len == kv_len:
            y = F.scaled_dot_product_attention(rows.transpose(0, 1)[None], k, v, is_causal=True, enable_gqa=H != K)
            y = y[0].transpose(0, 1)
        else:  # the query heads that share a key head become its rows
            G = H // K
            folded = rows.view(q_len, K, G, D).permute(1, 2, 0, 3).reshape(1, K, G * q_len, D)
            seen = None
            if q_len > 1:
                seen = torch.ones(q_len, kv_len, dtype=torch.bool, device=q.device).tril(kv_len - q_len).repeat(G, 1)
            y = F.scaled_dot_product_attention(folded, k, v, attn_mask=seen)
            y = y.view(K, G, q_len, D).permute(2, 0, 1, 3).reshape(q_len, H, D)
        out[start : start + q_len] = y
        start += q_len
    assert start == N
    return out


def _is_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> bool:
    """One row a sequence, in a form that is known in C."""
    if len(q) != len(table.kv_lens) or not build.takes_halves(q, k_cache, v_cache):
        return False
    compiled = build.library()
    return compiled is not None and bool(compiled.step_takes(q.shape[2])) and table.blocks.stride(1) == 1


def _decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> Tensor:
    compiled, (B, H, D), (P, K) = build.library(), q.shape, k_cache.shape[1:3]
    assert compiled is not None
    assert H % K == 0 and k_cache.shape == v_cache.shape and k_cache.shape[3] == D
    assert table.blocks.dtype == table.kv_len.dtype == torch.int32 and len(table.blocks) == B
    out = torch.empty_like(q)
    pointers = (each.data_ptr() for each in (q, k_cache, v_cache, out, table.blocks, table.kv_len))
    compiled.step_attend(*pointers, B, table.blocks.stride(0), P, H, K, D, q.dtype == torch.bfloat16, num_threads())
    return out
