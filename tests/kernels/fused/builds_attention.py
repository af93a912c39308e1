"""What the gate builds of attention: the places of the published models, in every tile of `tuning.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omni.kernels import BlockMask, BlockTable, Segments
from omni.kernels.fused import attention
from tests.kernels.aot import Build

P = 64


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def packed(
    lens: Sequence[int], H: int, D: int, dtype: torch.dtype, causal: bool = False, block: BlockMask | None = None
) -> None:
    q, k, v = meta(sum(lens), 3, H, D, dtype=dtype).unbind(1)  # as a fused projection leaves them
    attention.attend(q, k, v, Segments.of(lens, "meta"), causal, block, None)


def paged(new: Sequence[int], past: Sequence[int], H: int, K: int, D: int, dtype: torch.dtype) -> None:
    table = BlockTable.of(
        new, past, [range(1 + (n + p) // P) for n, p in zip(new, past, strict=True)], P, torch.device("cpu")
    )
    table = BlockTable(
        Segments(table.segments.lens, table.segments.cu_len.to("meta")),
        table.kv_lens,
        table.kv_len.to("meta"),
        table.blocks.to("meta"),
        table.slots,
        table.firsts,
    )
    q = meta(sum(new), H + 2 * K, D, dtype=dtype)[:, :H]
    blocks = meta(1000, P, K, D, dtype=dtype)
    attention.attend_paged(q, blocks, blocks, table)


EVERY: dict[str, Callable[[torch.dtype], None]] = {
    "attend: vision, windows": lambda dtype: packed((64,) * 83 + (16,), 16, 80, dtype),
    "attend: vision, pictures": lambda dtype: packed((5328, 100), 16, 80, dtype),
    "attend: audio": lambda dtype: packed((100,) * 15 + (7,), 20, 64, dtype),
    "attend: DiT, back 1": lambda dtype: packed((480, 480), 16, 64, dtype, block=BlockMask(24, 1, 0)),
    "attend: DiT, ahead 1": lambda dtype: packed((480, 480), 16, 64, dtype, block=BlockMask(24, 0, 1)),
    "attend: causal": lambda dtype: packed((2048,), 16, 128, dtype, causal=True),
    "attend_paged: prefill": lambda dtype: paged((4096,), (0,), 28, 4, 128, dtype),
    "attend_paged: prefill, split": lambda dtype: paged((100,), (4000,), 16, 2, 128, dtype),
    "attend_paged: chunks": lambda dtype: paged((4,) * 100, (90,) * 100, 14, 2, 64, dtype),
    "attend_paged: chunks, split": lambda dtype: paged((5, 1), (2000, 50), 28, 4, 128, dtype),
    "attend_paged: decode": lambda dtype: paged((1,) * 100, (100,) * 100, 28, 4, 128, dtype),
    "attend_paged: decode, split": lambda dtype: paged((1,), (2047,), 28, 4, 128, dtype),
    "attend_paged: decode of the 3B talker, split": lambda dtype: paged((1,), (2047,), 14, 2, 64, dtype),
}
OFTEN = ("attend: vision, pictures", "attend_paged: prefill", "attend_paged: decode, split")
BUILDS: dict[str, Build] = {name: functools.partial(EVERY[name], torch.bfloat16) for name in OFTEN}
