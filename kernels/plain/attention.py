"""Plain attention: every row against every key, and a mask. Contracts: `kernels/attention.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.block_table import BlockTable
from omni.kernels.segments import BlockMask, Segments


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, block: BlockMask | None, scale: float | None
) -> Tensor:
    out = []
    for one_q, one_k, one_v in zip(*(x.split(segments.lens) for x in (q, k, v)), strict=True):
        at = torch.arange(len(one_q), device=q.device)
        sees = torch.ones(len(at), len(at), dtype=torch.bool, device=q.device)
        if causal:
            sees = at <= at[:, None]
        elif block is not None:
            ahead = at // block.size - (at // block.size)[:, None]
            sees = (ahead >= -block.back) & (ahead <= block.ahead)
        out.append(_attend(one_q, one_k, one_v, sees, scale))
    return torch.cat(out)


def attend_paged(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> Tensor:
    out = []
    for rows, kv_len, blocks in zip(q.split(table.segments.lens), table.kv_lens, table.blocks, strict=True):
        k, v = (cache[blocks].flatten(0, 1)[:kv_len] for cache in (k_cache, v_cache))  # [kv_len, K, D]
        at = torch.arange(kv_len, device=q.device)
        out.append(_attend(rows, k, v, at <= at[-len(rows) :, None], None))
    return torch.cat(out)


def _attend(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float | None) -> Tensor:
    """`[N, H, D]` from queries `[N, H, D]` and keys and values `[M, K, D]`; sees: bool `[N, M]`."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # [H or K, N or M, D]
    k, v = (x.repeat_interleave(len(q) // len(k), 0) for x in (k, v))  # [H, M, D]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees, scale=scale).transpose(0, 1)
