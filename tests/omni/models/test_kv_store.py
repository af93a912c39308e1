"""Keys and values in blocks."""

from __future__ import annotations

import pytest
import torch

from omni.models.config import DecoderConfig
from omni.models.kv_store import KVStore

CONFIG = DecoderConfig(8, 8, 2, 2, 1, 4, 1e-6, 1e4, (0, 0), None, True, False, False, 100)


def store(num_blocks: int, dtype: torch.dtype = torch.float32) -> KVStore:
    """Of blocks with random contents."""
    made = KVStore(CONFIG, block_size=4, dtype=dtype, device=torch.device("cpu"))
    made.grow(num_blocks)
    for x in (made.keys, made.values):
        x.normal_()
    return made


def test_growth_keeps_what_was_written() -> None:
    s = store(3)
    keys, values = s.keys.clone(), s.values.clone()
    s.grow(7)
    assert s.num_blocks == 7
    assert torch.equal(s.keys[:, :3], keys) and torch.equal(s.values[:, :3], values)
    where = s.keys.data_ptr()
    s.grow(5)
    assert (s.num_blocks, s.keys.data_ptr()) == (7, where), "and nothing moves where there are enough"


def test_copy_leaves_the_others_alone() -> None:
    s = store(3)
    keys, values = s.keys[:, [0, 1, 0]], s.values[:, [0, 1, 0]]
    s.copy(0, 2)
    assert torch.equal(s.keys, keys) and torch.equal(s.values, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_blocks_come_back_elsewhere(dtype: torch.dtype) -> None:
    s = store(5, dtype)
    keys, values = s.keys[:, [3, 1]], s.values[:, [3, 1]]
    saved = s.save([3, 1])
    s.restore(saved, [0, 4])
    assert torch.equal(s.keys[:, [0, 4]], keys) and torch.equal(s.values[:, [0, 4]], values)


def test_bytes_per_row() -> None:
    assert store(1).bytes_per_row == 2 * 2 * 1 * 4 * 4
    assert store(1, torch.bfloat16).bytes_per_row == 2 * 2 * 1 * 4 * 2
