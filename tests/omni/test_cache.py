"""The pool of pages."""

from __future__ import annotations

import pytest
import torch

from omni.cache import CachedSequence, PagePool
from omni.config import DecoderConfig
from omni.errors import CapacityError

CONFIG = DecoderConfig(8, 8, 2, 2, 1, 4, 1e-6, 1e4, (2,), 100)


def pool(max_pages: int) -> PagePool:
    return PagePool(CONFIG, max_pages=max_pages, dtype=torch.float32, device=torch.device("cpu"), page_size=4)


def test_pages_are_given_as_rows_come_and_taken_back() -> None:
    p, a, b = pool(8), CachedSequence(), CachedSequence()
    p.table([a, b], [5, 1])
    p.commit([a, b], [5, 1])
    assert (len(a.pages), len(b.pages), p.num_free) == (2, 1, 5)
    table = p.table([a, b], [4, 1])
    assert table.kv_lens == (9, 2)
    assert table.slots.tolist()[:3] == [a.pages[1] * 4 + 1 + i for i in range(3)]
    assert len({*a.pages, *b.pages}) == 4
    p.release(a)
    assert (a.pages, a.length, p.num_free) == ([], 0, 7)


def test_growth_keeps_what_was_written() -> None:
    p, a = pool(16), CachedSequence()
    table = p.table([a], [4])
    p.keys.view(2, -1, 1, 4)[:, table.slots] = 7
    p.commit([a], [4])
    p.reserve(CachedSequence(), 40)
    assert p.keys.shape[1] >= 11
    assert (p.keys[:, a.pages[0]] == 7).all()


def test_a_full_pool_gives_nothing() -> None:
    p, a, b = pool(3), CachedSequence(), CachedSequence()
    p.reserve(a, 8)
    with pytest.raises(CapacityError, match="4 rows free and 8 are needed"):
        p.reserve(b, 5)
    assert (b.pages, p.num_free) == ([], 1)
    p.reserve(b, 4)
