"""What fits which GPU: sizes of tiles by compute capability, chosen by registers and shared memory of ahead-of-time builds.

A GPU gets the entry of the newest capability that is not newer than its own. 80 and 120 stand for all that have 99 KB of
shared memory a block, 90 for those with 227 KB.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton


class Tile(NamedTuple):
    """Rows and keys of a tile of scores, warps of a program, tiles of keys in flight and in use."""

    BM: int
    BN: int
    num_warps: int
    num_stages: int


class Attention(NamedTuple):
    """Tiles for up to 16 rows (decoding), up to 64, and more; with float32 for any; programs that fill the GPU."""

    few: Tile
    some: Tile
    many: Tile
    float32: Tile
    num_programs: int


_SMALL = Attention(Tile(16, 64, 4, 3), Tile(64, 32, 4, 3), Tile(128, 32, 8, 3), Tile(32, 32, 4, 2), 2 * 108)
ATTENTION = {
    80: _SMALL,
    90: Attention(Tile(16, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3), Tile(32, 32, 4, 2), 2 * 132),
    120: _SMALL,
}

MOST_SPLITS = 64
SPLIT_KEYS = 128
"""Fewer keys than this are not worth a split of their own."""


def capability() -> int:
    """Of the GPU in use, times ten; that of the oldest one supported in the interpreter."""
    return 80 if triton.knobs.runtime.interpret else triton.runtime.driver.active.get_current_target().arch


def attention() -> Attention:
    return ATTENTION[max((c for c in ATTENTION if c <= capability()), default=80)]


def attention_tile(num_rows: int, dtype: torch.dtype) -> Tile:
    """For sequences of up to `num_rows` rows."""
    table = attention()
    if dtype == torch.float32:
        return table.float32
    return table.few if num_rows <= 16 else table.some if num_rows <= 64 else table.many


def attention_splits(num_programs: int, most_keys: int) -> int:
    """Splits of the keys of each sequence, where `num_programs` would run without one."""
    return min(MOST_SPLITS, -(-most_keys // SPLIT_KEYS), -(-attention().num_programs // num_programs))
