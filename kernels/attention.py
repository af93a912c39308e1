"""Attention over packed rows, and over a paged key/value cache."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.block_table import BlockTable
from omni.kernels.dispatch import dispatch
from omni.kernels.plain import attention as plain
from omni.kernels.segments import BlockMask, Segments


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    *,
    causal: bool = False,
    block: BlockMask | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention inside each segment.

    Args:
        q: `[N, H, D]`.
        k, v: `[N, K, D]`, H a multiple of K; query head h reads key head h // (H // K).
        segments: no row sees a row of another segment (vision windows, audio chunks, sequences of a batch).
        causal: row i sees rows up to i of its segment.
        block: restricts rows to near blocks; not together with `causal`.
        scale: positive factor on the scores, D ** -0.5 when None.

    Returns:
        `[N, H, D]` in q's dtype. Scores and their softmax are float32 or better.
    """
    assert not (causal and block), "a mask is causal or by blocks"
    return dispatch(plain.attend, q, k, v, segments, causal, block, scale)


def attend_paged(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: BlockTable) -> Tensor:
    """Causal attention of new rows to a paged cache that already holds their own keys and values.

    Covers decoding (one row a sequence), prefill, and prefill in chunks: the queries of a sequence are its last rows.

    Args:
        q: `[N, H, D]`, the rows of B sequences, packed as `table.segments` says.
        k_cache, v_cache: `[num_blocks, P, K, D]`.
        table: which blocks hold which sequence. What lies in a block beyond the sequence's length is never read as a value
            (it may be NaN).

    Returns:
        `[N, H, D]` in q's dtype, scale D ** -0.5.

    On a GPU the launches depend on shapes and on `table.segments.lens` alone, so a CUDA graph may hold them. Between replays
    `table.kv_len` and `table.blocks` may change in place, kv_len up to `P * table.blocks.shape[1]`, and so may
    `table.segments.cu_len`, as long as no sequence gets more new rows than the longest in `lens`; `kv_lens` is not read. A
    sequence whose kv_len is 0 gets zeros.
    """
    return dispatch(plain.attend_paged, q, k_cache, v_cache, table)
