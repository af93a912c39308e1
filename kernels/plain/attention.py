"""Plain attention. Contracts: `kernels/attention.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.pages import PageTable
from omni.kernels.segments import BlockMask, Segments


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    causal: bool,
    block: BlockMask | None,
    scale: float | None,
) -> Tensor:
    assert q.shape[0] == k.shape[0] == v.shape[0] == segments.num_rows
    out = torch.empty_like(q)
    for start, length, count in segments.runs():
        rows = slice(start, start + length * count)
        qr, kr, vr = (x[rows].view(count, length, -1, x.shape[-1]) for x in (q, k, v))  # [count, length, H, D]
        if block is None:
            qh, kh, vh = (x.transpose(1, 2) for x in (qr, kr, vr))  # [count, H, length, D]
            y = F.scaled_dot_product_attention(
                qh, kh, vh, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            ).transpose(1, 2)
        else:
            y = _attend_blocks(qr, kr, vr, block, scale)
        out[rows] = y.flatten(0, 1)
    return out


def _attend_blocks(q: Tensor, k: Tensor, v: Tensor, block: BlockMask, scale: float | None) -> Tensor:
    """One window of keys per block of queries, so that the work grows with T and not with its square."""
    size, back, ahead = block
    B, T, H, D = q.shape
    num_blocks = -(-T // size)
    fill = num_blocks * size - T
    window = (back + 1 + ahead) * size
    if window == size and not fill:
        q, k, v = (x.reshape(B * num_blocks, size, -1, D).transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=H != k.shape[1])
        return y.transpose(1, 2).reshape(B, T, H, D)
    q = F.pad(q, (0, 0, 0, 0, 0, fill)).reshape(B * num_blocks, size, H, D)

    def windows(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, back * size, ahead * size + fill))
        x = x.unfold(1, window, size).movedim(-1, 2)  # [B, num_blocks, window, K, D]
        return x.reshape(B * num_blocks, window, x.shape[3], D)

    k, v = windows(k), windows(v)
    seen = None
    if back or ahead or fill:
        first = torch.arange(num_blocks, device=q.device)[:, None] * size - back * size
        at = first + torch.arange(window, device=q.device)  # [num_blocks, window]
        seen = ((at >= 0) & (at < T)).repeat(B, 1)[:, None, None]  # [B * num_blocks, 1, 1, window]
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=seen,
        scale=scale,
        enable_gqa=H != k.shape[2],
    )
    return y.transpose(1, 2).reshape(B, num_blocks * size, H, D)[:, :T]


def attend_paged(q: Tensor, k_pages: Tensor, v_pages: Tensor, table: PageTable) -> Tensor:
    N, H, D = q.shape
    P, K = k_pages.shape[1:3]
    out = torch.empty_like(q)
    start = 0
    for b, (q_len, kv_len) in enumerate(zip(table.segments.lens, table.kv_lens, strict=True)):
        first, pages = table.firsts[b], table.pages[b, : -(-kv_len // P)]
        held = slice(first, first + len(pages)) if first >= 0 else pages  # in one piece nothing is copied
        k = k_pages[held].flatten(0, 1)[:kv_len].transpose(0, 1)[None]  # [1, K, kv_len, D]
        v = v_pages[held].flatten(0, 1)[:kv_len].transpose(0, 1)[None]
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
