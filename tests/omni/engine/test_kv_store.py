"""The pool of pages."""

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

from omni.errors import CapacityError
from omni.models.config import DecoderConfig
from omni.models.kv_store import CachedSequence, PagePool, SavedSequence
from tests.kernels.cache import write_pages

CONFIG = DecoderConfig(8, 8, 2, 2, 1, 4, 1e-6, 1e4, (2,), 100)


def pool(max_pages: int, dtype: torch.dtype = torch.float32) -> PagePool:
    return PagePool(CONFIG, max_pages=max_pages, dtype=dtype, device=torch.device("cpu"), page_size=4)


def rows_of(tokens: bytes) -> Tensor:
    """The keys `[2, N, 1, 4]` that a decoder might compute: each depends on its layer and on all tokens up to its own."""
    numbers = [zlib.crc32(tokens[: i + 1]) % 2**16 for i in range(len(tokens))]
    return torch.tensor([numbers, numbers], dtype=torch.float32)[..., None, None] + torch.arange(8.0).view(2, 1, 1, 4)


def digests(tokens: bytes) -> list[bytes]:
    return [tokens[: i + 4] for i in range(0, len(tokens) // 4 * 4, 4)]


def write(p: PagePool, sequence: CachedSequence, before: bytes, new: bytes) -> None:
    table = p.table([sequence], [len(new)])
    rows = rows_of(before + new)[:, len(before) :]
    for layer, k, keys, values in zip(range(2), rows, p.keys, p.values, strict=True):
        write_pages(k, -k - layer, keys, values, table.slots)
    p.commit([sequence], [len(new)])


def holding(p: PagePool, tokens: bytes, *, publish: bool = False) -> CachedSequence:
    sequence = CachedSequence()
    write(p, sequence, b"", tokens)
    if publish:
        p.publish(sequence, digests(tokens))
    return sequence


def assert_holds(p: PagePool, sequence: CachedSequence, tokens: bytes) -> None:
    assert sequence.length == len(tokens)
    expected = rows_of(tokens)
    layer = torch.arange(2.0).view(2, 1, 1, 1)
    for x, rows in ((p.keys, expected), (p.values, -expected - layer)):
        assert torch.equal(x[:, sequence.pages].flatten(1, 2)[:, : len(tokens)], rows)


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


def test_released_pages_wait_under_their_keys() -> None:
    p = pool(8)
    a = holding(p, b"aaaabbbbcc")
    p.publish(a, digests(b"aaaabbbbccdd"))
    pages = list(a.pages)
    p.release(a)
    assert (p.num_pages_used, p.num_pages_cached, p.num_free) == (0, 2, 8)
    b = CachedSequence()
    assert p.match(digests(b"aaaabbbbcccc")) == 2
    assert p.adopt(b, digests(b"aaaabbbbcccc")) == 8
    assert (b.pages, b.length, p.num_pages_used, p.num_pages_cached) == (pages[:2], 8, 2, 0)
    assert_holds(p, b, b"aaaabbbb")


@pytest.mark.parametrize(
    ("tokens", "most", "num_rows"),
    [
        (b"aaaabbbb", 1, 4),
        (b"aaaabbbb", 0, 0),
        (b"aaaabbbb", 9, 8),
        (b"aaaacccc", None, 4),
        (b"bbbb", None, 0),
        (b"aaa", None, 0),
    ],
)
def test_adopt_takes_the_longest_run(tokens: bytes, most: int | None, num_rows: int) -> None:
    p, b = pool(8), CachedSequence()
    holding(p, b"aaaabbbb", publish=True)
    assert p.adopt(b, digests(tokens), most) == num_rows
    assert_holds(p, b, tokens[:num_rows])
    p.release(b)
    assert p.num_pages_used == 2


def test_the_older_page_keeps_its_key() -> None:
    p = pool(8)
    a, b, c = holding(p, b"aaaa", publish=True), holding(p, b"aaaabbbb", publish=True), CachedSequence()
    p.adopt(c, digests(b"aaaabbbb"))
    assert c.pages == [a.pages[0], b.pages[1]]
    p.publish(a, [b"!"])
    assert p.match([b"!"]) == 0  # a page has one key
    for sequence in (a, b, c):
        p.release(sequence)
    assert (p.num_pages_cached, p.num_free) == (2, 8)


def test_the_least_recently_used_page_goes_first() -> None:
    p = pool(5)
    a, b = holding(p, b"aaaabbbb", publish=True), holding(p, b"cccc", publish=True)
    p.release(a)
    p.release(b)
    again = CachedSequence()
    p.adopt(again, digests(b"aaaa"))
    p.release(again)
    known = (b"aaaabbbb", b"cccc")
    matches = []
    for num_rows in (8, 4, 4, 4):
        p.reserve(CachedSequence(), num_rows)
        matches.append([p.match(digests(tokens)) for tokens in known])
    # two pages were never used; then the end of `a`, then `c`, and the beginning of `a`, adopted since, last
    assert matches == [[2, 1], [1, 1], [1, 0], [0, 0]]
    assert (p.num_free, p.num_pages_cached) == (0, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_shared_page_is_copied_by_who_writes_first(order: tuple[int, int]) -> None:
    p = pool(8)
    a = holding(p, b"aaaabb")
    pair = (a, p.fork(a))
    assert p.num_pages_used == 2
    for i, new in zip(order, (b"cc", b"dddd"), strict=True):
        write(p, pair[i], b"aaaabb", new)
    assert_holds(p, pair[order[0]], b"aaaabbcc")
    assert_holds(p, pair[order[1]], b"aaaabbdddd")
    assert pair[0].pages[0] == pair[1].pages[0]
    assert p.num_pages_used == 4


@pytest.mark.parametrize("tokens", [b"aaaa", b"aaaaaa"])
def test_a_fork_leaves_the_pages_reserved_for_rows_to_come(tokens: bytes) -> None:
    p = pool(8)
    a = holding(p, tokens)
    p.reserve(a, 8)
    b = p.fork(a)
    write(p, a, tokens, b"b")
    write(p, b, tokens, b"c")
    assert_holds(p, a, tokens + b"b")
    assert_holds(p, b, tokens + b"c")


def test_a_published_page_is_never_written() -> None:
    p = pool(3)
    a, b = holding(p, b"aaaabbbb", publish=True), CachedSequence()
    p.cut(a, 6)
    write(p, a, b"aaaabb", b"cc")
    assert_holds(p, a, b"aaaabbcc")
    assert (p.num_pages_used, p.num_pages_cached) == (2, 1)
    p.adopt(b, digests(b"aaaabbbb"))
    assert_holds(p, b, b"aaaabbbb")


def test_a_copy_needs_a_page() -> None:
    p = pool(2)
    a = holding(p, b"aaaabb")
    b = p.fork(a)
    with pytest.raises(CapacityError, match="0 rows free and 4 are needed"):
        p.reserve(a, 1)
    p.release(b)
    p.reserve(a, 1)


def test_a_sequence_alone_needs_no_more_pages_than_its_rows_fill() -> None:
    p = pool(2)
    a = holding(p, b"aaaabbbb", publish=True)
    p.cut(a, 6)
    write(p, a, b"aaaabb", b"cc")
    assert_holds(p, a, b"aaaabbcc")
    assert p.match(digests(b"aaaabbbb")) == 1


def test_forget() -> None:
    p = pool(8)
    a, b = holding(p, b"aaaa", publish=True), holding(p, b"bbbb", publish=True)
    p.release(a)
    p.forget()
    assert (p.num_pages_cached, p.num_free, p.match(digests(b"aaaa")), p.match(digests(b"bbbb"))) == (0, 7, 0, 0)
    p.release(b)
    assert (p.num_pages_cached, p.num_free) == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 8, 11])
def test_saved_rows_come_back_bit_for_bit(dtype: torch.dtype, num_rows: int) -> None:
    p, a, b = pool(6, dtype), CachedSequence(), CachedSequence()
    slots = p.table([a], [num_rows]).slots
    p.commit([a], [num_rows])
    bits = torch.randint(-(2**15), 2**15, (2, 2, num_rows, 4 * dtype.itemsize // 2), dtype=torch.int16)
    for x, some in zip((p.keys, p.values), bits.view(dtype), strict=True):
        x.view(2, -1, 4)[:, slots] = some
    saved = p.save(a)
    assert (a.pages, a.length, p.num_free) == ([], 0, 6)
    other = CachedSequence()
    p.reserve(other, 4)
    p.restore(saved, b)
    assert (b.length, p.num_free) == (num_rows, 5 - -(-num_rows // 4))
    back = torch.stack([x[:, b.pages].flatten(1, 2)[:, :num_rows, 0] for x in (p.keys, p.values)])
    assert torch.equal(back.view(torch.int16), bits)


def test_restore_without_room_changes_nothing() -> None:
    p = pool(3)
    saved, b = p.save(holding(p, b"aaaabbbb")), CachedSequence()
    other = holding(p, b"cccccccc")
    with pytest.raises(CapacityError):
        p.restore(saved, b)
    assert (b, p.num_free) == (CachedSequence(), 1)
    p.release(other)
    p.restore(saved, b)
    assert_holds(p, b, b"aaaabbbb")


def test_bytes_per_row() -> None:
    assert pool(1).bytes_per_row == 2 * 2 * 1 * 4 * 4
    assert pool(1, torch.bfloat16).bytes_per_row == 2 * 2 * 1 * 4 * 2


@dataclass
class Twin:
    """A sequence of the pool and the tokens that its rows must be of."""

    cache: CachedSequence = field(default_factory=CachedSequence)
    tokens: bytes = b""


MAX_PAGES = 9
WHICH = st.integers(0, 99)  # taken modulo what there is
SOME = st.sampled_from((b"a", b"b", b"ab", b"aaaa", b"abbba", b"abababab"))
KEYS = st.sampled_from((9, 9, 2, 0))


class PoolAndTwins(RuleBasedStateMachine):
    """The pool does what plain lists do; pages that hold nothing are NaN, so that a stale row shows."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool(MAX_PAGES)
        self.live = [Twin(), Twin()]
        self.saved: list[tuple[SavedSequence, bytes]] = []
        self.page_of: dict[bytes, int] = {}
        self.clock = 0
        self.last_use: dict[int, tuple[int, int]] = {}

    def pick(self, which: int) -> Twin:
        return self.live[which % len(self.live)]

    def holders(self) -> Counter[int]:
        return Counter(page for twin in self.live for page in twin.cache.pages)

    def cached(self) -> list[int]:
        """The next to go first."""
        return sorted(self.page_of.values() - self.holders().keys(), key=self.last_use.__getitem__)

    def tick(self) -> None:
        self.clock += 1
        for twin in self.live:
            for i, page in enumerate(twin.cache.pages):
                self.last_use[page] = (self.clock, -i)  # of pages last used at once, the later one goes first

    def begin(self, twin: Twin) -> None:
        self.live.append(twin)
        self.tick()
        if len(self.live) > 4:
            self.release(0)

    def published_after(self, num_pages: int) -> dict[bytes, int]:
        """What is still published once so many pages are handed out."""
        empty = MAX_PAGES - len(self.holders()) - len(self.cached())
        gone = self.cached()[: max(0, num_pages - empty)]
        return {key: page for key, page in self.page_of.items() if page not in gone}

    def try_reserve(self, twin: Twin, num_rows: int) -> bool:
        p, held, length = self.pool, list(twin.cache.pages), len(twin.tokens)
        holders = self.holders()
        room = MAX_PAGES - len(holders)
        need = max(0, -(-(length + num_rows) // 4) - len(held))
        if length % 4:
            last = held[length // 4]
            published = last in self.page_of.values()
            if published and holders[last] == 1 and need == room:
                self.page_of = {key: page for key, page in self.page_of.items() if page != last}
            else:
                need += published or holders[last] > 1
        before, left = (held, length, room, len(self.cached())), self.published_after(need)
        try:
            p.reserve(twin.cache, num_rows)
        except CapacityError:
            assert need > room
            assert before == (twin.cache.pages, twin.cache.length, p.num_free, p.num_pages_cached)
            return False
        assert need <= room
        self.page_of = left
        self.tick()
        return True

    @rule(which=WHICH, new=SOME, spare=st.sampled_from((0, 0, 4, 9)), num_keys=KEYS)
    def write(self, which: int, new: bytes, spare: int, num_keys: int) -> None:
        twin = self.pick(which)
        if self.try_reserve(twin, len(new) + spare):
            write(self.pool, twin.cache, twin.tokens, new)
            twin.tokens += new
            self.publish(twin, num_keys)

    @rule(new=st.sampled_from((b"a", b"b")), num_keys=KEYS)
    def write_together(self, new: bytes, num_keys: int) -> None:
        ready = [twin for twin in self.live if self.try_reserve(twin, 1)]
        num_free = self.pool.num_free
        for twin in ready:
            write(self.pool, twin.cache, twin.tokens, new)
            twin.tokens += new
            self.publish(twin, num_keys)
        assert self.pool.num_free == num_free

    def publish(self, twin: Twin, num_keys: int) -> None:
        keys = digests(twin.tokens + b"????")[:num_keys]  # one more than there are full pages
        self.pool.publish(twin.cache, keys)
        for key, page in zip(keys[: len(twin.tokens) // 4], twin.cache.pages, strict=False):
            if page not in self.page_of.values():
                self.page_of.setdefault(key, page)

    @precondition(lambda self: self.page_of)
    @rule(which=WHICH, most=st.none() | st.integers(0, 3))
    def adopt(self, which: int, most: int | None) -> None:
        tokens = sorted(self.page_of)[which % len(self.page_of)] + b"aaaa"
        keys = digests(tokens)
        found = next((i for i, key in enumerate(keys) if key not in self.page_of), len(keys))
        assert self.pool.match(keys) == found
        num_rows = 4 * (found if most is None else min(found, most))
        twin = Twin(tokens=tokens[:num_rows])
        assert self.pool.adopt(twin.cache, keys, most) == num_rows
        self.begin(twin)

    @rule(which=WHICH)
    def fork(self, which: int) -> None:
        twin = self.pick(which)
        self.begin(Twin(self.pool.fork(twin.cache), twin.tokens))

    @rule(which=WHICH, num_rows=st.sampled_from((1, 1, 2, 3, 5, 9)))
    def cut(self, which: int, num_rows: int) -> None:
        twin = self.pick(which)
        twin.tokens = twin.tokens[: max(0, len(twin.tokens) - num_rows)]
        self.pool.cut(twin.cache, len(twin.tokens))
        assert len(twin.cache.pages) == -(-len(twin.tokens) // 4)
        self.tick()

    @precondition(lambda self: len(self.live) > 1)
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        twin = self.pick(which)
        self.pool.release(twin.cache)
        self.live = [t for t in self.live if t is not twin]
        self.tick()

    @precondition(lambda self: len(self.saved) < 3)
    @rule(which=WHICH)
    def save(self, which: int) -> None:
        twin = self.pick(which)
        self.saved.append((self.pool.save(twin.cache), twin.tokens))
        twin.tokens = b""
        self.tick()

    @precondition(lambda self: self.saved)
    @rule(which=WHICH)
    def restore(self, which: int) -> None:
        saved, tokens = self.saved.pop(which % len(self.saved))
        twin = Twin()
        need, room = -(-len(tokens) // 4), self.pool.num_free
        left = self.published_after(need)
        try:
            self.pool.restore(saved, twin.cache)
        except CapacityError:
            assert need > room and twin.cache == CachedSequence() and self.pool.num_free == room
            return
        assert need <= room
        self.page_of, twin.tokens = left, tokens
        self.begin(twin)

    @precondition(lambda self: len(self.page_of) > 4)
    @rule()
    def forget(self) -> None:
        self.pool.forget()
        self.page_of.clear()

    @invariant()
    def every_row_reads_back(self) -> None:
        for twin in self.live:
            assert_holds(self.pool, twin.cache, twin.tokens)
        for key, page in self.page_of.items():
            assert torch.equal(self.pool.keys[:, page], rows_of(key)[:, -4:])

    @invariant()
    def every_page_is_in_one_place(self) -> None:
        p, holders, cached = self.pool, self.holders(), self.cached()
        num_pages = p.keys.shape[1]
        empty = {*range(num_pages)} - holders.keys() - {*cached}
        assert (p.num_pages_used, p.num_pages_cached) == (len(holders), len(cached))
        assert p.num_free == MAX_PAGES - len(holders)
        assert p._num_holders == [holders[page] for page in range(num_pages)]
        assert list(p._cached) == cached
        assert p._page_of == self.page_of
        assert sorted(p._free) == sorted(empty)
        for x in (p.keys, p.values):
            x[:, list(empty)] = torch.nan


TestPoolAndTwins = PoolAndTwins.TestCase
TestPoolAndTwins.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
