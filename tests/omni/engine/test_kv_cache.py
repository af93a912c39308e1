"""A block manager and a store, together: what a decoder writes is what it reads."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor

from omni.engine.block_manager import CachedSequence
from omni.engine.kv_cache import KVCache, SavedSequence
from omni.errors import CapacityError
from omni.models.config import DecoderConfig
from tests.kernels.cache import write_rows

CONFIG = DecoderConfig(8, 8, 2, 2, 1, 4, 1e-6, 1e4, (0, 0), None, True, False, False, 100)


def cache(max_blocks: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(CONFIG, max_blocks=max_blocks, dtype=dtype, device=torch.device("cpu"), block_size=4)


def rows_of(tokens: bytes) -> Tensor:
    """The keys `[2, N, 1, 4]` that a decoder might compute: each depends on its layer and on all tokens up to its own."""
    numbers = [zlib.crc32(tokens[: i + 1]) % 2**16 for i in range(len(tokens))]
    return torch.tensor([numbers, numbers], dtype=torch.float32)[..., None, None] + torch.arange(8.0).view(2, 1, 1, 4)


def digests(tokens: bytes) -> list[bytes]:
    return [tokens[: i + 4] for i in range(0, len(tokens) // 4 * 4, 4)]


def write(p: KVCache, sequence: CachedSequence, before: bytes, new: bytes) -> None:
    table = p.table([sequence], [len(new)])
    rows = rows_of(before + new)[:, len(before) :]
    for layer, k, keys, values in zip(range(2), rows, p.store.keys, p.store.values, strict=True):
        write_rows(k, -k - layer, keys, values, table.slots)
    p.commit([sequence], [len(new)])


def holding(p: KVCache, tokens: bytes, *, insert: bool = False) -> CachedSequence:
    sequence = CachedSequence()
    write(p, sequence, b"", tokens)
    if insert:
        p.blocks.insert(sequence, digests(tokens))
    return sequence


def assert_holds(p: KVCache, sequence: CachedSequence, tokens: bytes) -> None:
    assert sequence.length == len(tokens)
    expected = rows_of(tokens)
    layer = torch.arange(2.0).view(2, 1, 1, 1)
    for x, rows in ((p.store.keys, expected), (p.store.values, -expected - layer)):
        assert torch.equal(x[:, sequence.blocks].flatten(1, 2)[:, : len(tokens)], rows)


def test_a_table_says_where_new_rows_go() -> None:
    p, a, b = cache(8), CachedSequence(), CachedSequence()
    p.table([a, b], [5, 1])
    p.commit([a, b], [5, 1])
    assert (len(a.blocks), len(b.blocks), p.blocks.num_free) == (2, 1, 5)
    table = p.table([a, b], [4, 1])
    assert table.kv_lens == (9, 2)
    assert table.slots.tolist()[:3] == [a.blocks[1] * 4 + 1 + i for i in range(3)]


def test_growth_keeps_what_was_written() -> None:
    p, a = cache(16), CachedSequence()
    table = p.table([a], [4])
    p.store.keys.view(2, -1, 1, 4)[:, table.slots] = 7
    p.commit([a], [4])
    p.reserve(CachedSequence(), 40)
    assert p.store.num_blocks == p.blocks.num_blocks >= 11
    assert (p.store.keys[:, a.blocks[0]] == 7).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_shared_block_is_copied_by_who_writes_first(order: tuple[int, int]) -> None:
    p = cache(8)
    a = holding(p, b"aaaabb")
    pair = (a, p.blocks.fork(a))
    for i, new in zip(order, (b"cc", b"dddd"), strict=True):
        write(p, pair[i], b"aaaabb", new)
    assert_holds(p, pair[order[0]], b"aaaabbcc")
    assert_holds(p, pair[order[1]], b"aaaabbdddd")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 8, 11])
def test_saved_rows_come_back_bit_for_bit(dtype: torch.dtype, num_rows: int) -> None:
    p, a, b = cache(6, dtype), CachedSequence(), CachedSequence()
    slots = p.table([a], [num_rows]).slots
    p.commit([a], [num_rows])
    bits = torch.randint(-(2**15), 2**15, (2, 2, num_rows, 4 * dtype.itemsize // 2), dtype=torch.int16)
    for x, some in zip((p.store.keys, p.store.values), bits.view(dtype), strict=True):
        x.view(2, -1, 4)[:, slots] = some
    saved = p.save(a)
    assert (a.blocks, a.length, p.blocks.num_free) == ([], 0, 6)
    other = CachedSequence()
    p.reserve(other, 4)
    p.restore(saved, b)
    assert (b.length, p.blocks.num_free) == (num_rows, 5 - -(-num_rows // 4))
    back = torch.stack([x[:, b.blocks].flatten(1, 2)[:, :num_rows, 0] for x in (p.store.keys, p.store.values)])
    assert torch.equal(back.view(torch.int16), bits)


def test_restore_without_room_changes_nothing() -> None:
    p = cache(3)
    saved, b = p.save(holding(p, b"aaaabbbb")), CachedSequence()
    other = holding(p, b"cccccccc")
    with pytest.raises(CapacityError):
        p.restore(saved, b)
    assert (b, p.blocks.num_free) == (CachedSequence(), 1)
    p.blocks.free(other)
    p.restore(saved, b)
    assert_holds(p, b, b"aaaabbbb")


@dataclass
class Twin:
    """A sequence of the cache and the tokens that its rows must be of."""

    cache: CachedSequence = field(default_factory=CachedSequence)
    tokens: bytes = b""


MAX_BLOCKS = 9
WHICH = st.integers(0, 99)  # taken modulo what there is
SOME = st.sampled_from((b"a", b"b", b"ab", b"aaaa", b"abbba", b"abababab"))
KEYS = st.sampled_from((9, 9, 2, 0))


class CacheAndTwins(RuleBasedStateMachine):
    """The cache does what plain lists do; blocks that hold nothing are NaN, so that a stale row shows."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = cache(MAX_BLOCKS)
        self.live = [Twin(), Twin()]
        self.saved: list[tuple[SavedSequence, bytes]] = []
        self.block_of: dict[bytes, int] = {}
        self.clock = 0
        self.last_use: dict[int, tuple[int, int]] = {}

    def pick(self, which: int) -> Twin:
        return self.live[which % len(self.live)]

    def holders(self) -> Counter[int]:
        return Counter(block for twin in self.live for block in twin.cache.blocks)

    def cached(self) -> list[int]:
        """The next to go first."""
        return sorted(self.block_of.values() - self.holders().keys(), key=self.last_use.__getitem__)

    def tick(self) -> None:
        self.clock += 1
        for twin in self.live:
            for i, block in enumerate(twin.cache.blocks):
                self.last_use[block] = (self.clock, -i)  # of blocks last used at once, the later one goes first

    def begin(self, twin: Twin) -> None:
        self.live.append(twin)
        self.tick()
        if len(self.live) > 4:
            self.release(0)

    def inserted_after(self, num_blocks: int) -> dict[bytes, int]:
        """What is still inserted once so many blocks are handed out."""
        empty = MAX_BLOCKS - len(self.holders()) - len(self.cached())
        gone = self.cached()[: max(0, num_blocks - empty)]
        return {key: block for key, block in self.block_of.items() if block not in gone}

    def try_reserve(self, twin: Twin, num_rows: int) -> bool:
        p, held, length = self.kv, list(twin.cache.blocks), len(twin.tokens)
        holders = self.holders()
        room = MAX_BLOCKS - len(holders)
        need = max(0, -(-(length + num_rows) // 4) - len(held))
        if length % 4:
            last = held[length // 4]
            inserted = last in self.block_of.values()
            if inserted and holders[last] == 1 and need == room:
                self.block_of = {key: block for key, block in self.block_of.items() if block != last}
            else:
                need += inserted or holders[last] > 1
        before, left = (held, length, room, len(self.cached())), self.inserted_after(need)
        try:
            p.reserve(twin.cache, num_rows)
        except CapacityError:
            assert need > room
            assert before == (twin.cache.blocks, twin.cache.length, p.blocks.num_free, p.blocks.num_cached)
            return False
        assert need <= room
        self.block_of = left
        self.tick()
        return True

    @rule(which=WHICH, new=SOME, spare=st.sampled_from((0, 0, 4, 9)), num_keys=KEYS)
    def write(self, which: int, new: bytes, spare: int, num_keys: int) -> None:
        twin = self.pick(which)
        if self.try_reserve(twin, len(new) + spare):
            write(self.kv, twin.cache, twin.tokens, new)
            twin.tokens += new
            self.insert(twin, num_keys)

    @rule(new=st.sampled_from((b"a", b"b")), num_keys=KEYS)
    def write_together(self, new: bytes, num_keys: int) -> None:
        ready = [twin for twin in self.live if self.try_reserve(twin, 1)]
        num_free = self.kv.blocks.num_free
        for twin in ready:
            write(self.kv, twin.cache, twin.tokens, new)
            twin.tokens += new
            self.insert(twin, num_keys)
        assert self.kv.blocks.num_free == num_free

    def insert(self, twin: Twin, num_keys: int) -> None:
        keys = digests(twin.tokens + b"????")[:num_keys]  # one more than there are full blocks
        self.kv.blocks.insert(twin.cache, keys)
        for key, block in zip(keys[: len(twin.tokens) // 4], twin.cache.blocks, strict=False):
            if block not in self.block_of.values():
                self.block_of.setdefault(key, block)

    @precondition(lambda self: self.block_of)
    @rule(which=WHICH, most=st.none() | st.integers(0, 3))
    def adopt(self, which: int, most: int | None) -> None:
        tokens = sorted(self.block_of)[which % len(self.block_of)] + b"aaaa"
        keys = digests(tokens)
        found = next((i for i, key in enumerate(keys) if key not in self.block_of), len(keys))
        assert self.kv.blocks.match(keys) == found
        num_rows = 4 * (found if most is None else min(found, most))
        twin = Twin(tokens=tokens[:num_rows])
        assert self.kv.blocks.adopt(twin.cache, keys[:most]) == num_rows
        self.begin(twin)

    @rule(which=WHICH)
    def fork(self, which: int) -> None:
        twin = self.pick(which)
        self.begin(Twin(self.kv.blocks.fork(twin.cache), twin.tokens))

    @rule(which=WHICH, num_rows=st.sampled_from((1, 1, 2, 3, 5, 9)))
    def cut(self, which: int, num_rows: int) -> None:
        twin = self.pick(which)
        twin.tokens = twin.tokens[: max(0, len(twin.tokens) - num_rows)]
        self.kv.blocks.cut(twin.cache, len(twin.tokens))
        assert len(twin.cache.blocks) == -(-len(twin.tokens) // 4)
        self.tick()

    @precondition(lambda self: len(self.live) > 1)
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        twin = self.pick(which)
        self.kv.blocks.free(twin.cache)
        self.live = [t for t in self.live if t is not twin]
        self.tick()

    @precondition(lambda self: len(self.saved) < 3)
    @rule(which=WHICH)
    def save(self, which: int) -> None:
        twin = self.pick(which)
        self.saved.append((self.kv.save(twin.cache), twin.tokens))
        twin.tokens = b""
        self.tick()

    @precondition(lambda self: self.saved)
    @rule(which=WHICH)
    def restore(self, which: int) -> None:
        saved, tokens = self.saved.pop(which % len(self.saved))
        twin = Twin()
        need, room = -(-len(tokens) // 4), self.kv.blocks.num_free
        left = self.inserted_after(need)
        try:
            self.kv.restore(saved, twin.cache)
        except CapacityError:
            assert need > room and twin.cache == CachedSequence() and self.kv.blocks.num_free == room
            return
        assert need <= room
        self.block_of, twin.tokens = left, tokens
        self.begin(twin)

    @precondition(lambda self: len(self.block_of) > 4)
    @rule()
    def forget(self) -> None:
        self.kv.blocks.forget()
        self.block_of.clear()

    @invariant()
    def every_row_reads_back(self) -> None:
        for twin in self.live:
            assert_holds(self.kv, twin.cache, twin.tokens)
        for key, block in self.block_of.items():
            assert torch.equal(self.kv.store.keys[:, block], rows_of(key)[:, -4:])

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        p, holders, cached = self.kv, self.holders(), self.cached()
        num_blocks = p.store.num_blocks
        empty = {*range(num_blocks)} - holders.keys() - {*cached}
        assert (p.blocks.num_used, p.blocks.num_cached) == (len(holders), len(cached))
        assert p.blocks.num_free == MAX_BLOCKS - len(holders)
        assert p.blocks._num_holders == [holders[block] for block in range(num_blocks)]
        assert list(p.blocks._cached) == cached
        assert p.blocks._block_of == self.block_of
        assert sorted(p.blocks._free) == sorted(empty)
        for x in (p.store.keys, p.store.values):
            x[:, list(empty)] = torch.nan


TestCacheAndTwins = CacheAndTwins.TestCase
TestCacheAndTwins.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
