"""The block manager, with a memory of bytes: torch is not needed to know whose rows are where."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict

import pytest

from omni.engine.block_manager import BlockManager, CachedSequence
from omni.errors import CapacityError


class Memory:
    """A block manager and what lies in its blocks, a byte a row."""

    def __init__(self, max_blocks: int) -> None:
        self.blocks = BlockManager(max_blocks, block_size=4)
        self.rows = defaultdict[int, bytearray](lambda: bytearray(4))

    def reserve(self, sequence: CachedSequence, num_rows: int) -> None:
        if copied := self.blocks.allocate(sequence, num_rows):
            old, new = copied
            self.rows[new] = bytearray(self.rows[old])

    def write(self, sequence: CachedSequence, new: bytes) -> None:
        self.reserve(sequence, len(new))
        for i, row in enumerate(new, sequence.length):
            self.rows[sequence.blocks[i // 4]][i % 4] = row
        sequence.length += len(new)


def digests(tokens: bytes) -> list[bytes]:
    return [tokens[: i + 4] for i in range(0, len(tokens) // 4 * 4, 4)]


def holding(p: Memory, tokens: bytes, *, insert: bool = False) -> CachedSequence:
    sequence = CachedSequence()
    p.write(sequence, tokens)
    if insert:
        p.blocks.insert(sequence, digests(tokens))
    return sequence


def assert_holds(p: Memory, sequence: CachedSequence, tokens: bytes) -> None:
    assert sequence.length == len(tokens)
    assert b"".join(p.rows[block] for block in sequence.blocks)[: len(tokens)] == tokens


def test_blocks_are_given_as_rows_come_and_taken_back() -> None:
    p = Memory(8)
    a, b = holding(p, b"aaaaa"), holding(p, b"b")
    assert (len(a.blocks), len(b.blocks), p.blocks.num_free) == (2, 1, 5)
    p.write(a, b"aaaa")
    p.write(b, b"b")
    assert (len(a.blocks), len(b.blocks)) == (3, 1)
    assert len({*a.blocks, *b.blocks}) == 4
    p.blocks.free(a)
    assert (a.blocks, a.length, p.blocks.num_free) == ([], 0, 7)


def test_blocks_come_into_being_by_doubling() -> None:
    blocks, a = BlockManager(10, block_size=4), CachedSequence()
    have = []
    for _ in range(10):
        blocks.allocate(a, 4)
        a.length += 4
        have.append(blocks.num_blocks)
    assert have == [1, 2, 4, 4, 8, 8, 8, 8, 10, 10]
    assert a.blocks == list(range(10))


def test_the_rows_of_a_sequence_lie_in_one_piece_where_they_can() -> None:
    blocks, a, b = BlockManager(8, block_size=4), CachedSequence(), CachedSequence()
    blocks.grow(8)
    blocks.allocate(a, 8)
    blocks.allocate(b, 4)
    blocks.free(a)
    b.length = 4
    blocks.allocate(b, 4)
    assert b.blocks == [2, 3], "and not one of those that were freed last"


def test_a_full_pool_gives_nothing() -> None:
    p, a, b = Memory(3), CachedSequence(), CachedSequence()
    p.reserve(a, 8)
    with pytest.raises(CapacityError, match="4 rows free and 8 are needed"):
        p.reserve(b, 5)
    assert (b.blocks, p.blocks.num_free) == ([], 1)
    p.reserve(b, 4)


def test_released_blocks_wait_under_their_keys() -> None:
    p = Memory(8)
    a = holding(p, b"aaaabbbbcc")
    p.blocks.insert(a, digests(b"aaaabbbbccdd"))
    blocks = list(a.blocks)
    p.blocks.free(a)
    assert (p.blocks.num_used, p.blocks.num_cached, p.blocks.num_free) == (0, 2, 8)
    b = CachedSequence()
    assert p.blocks.match(digests(b"aaaabbbbcccc")) == 2
    assert p.blocks.adopt(b, digests(b"aaaabbbbcccc")) == 8
    assert (b.blocks, b.length, p.blocks.num_used, p.blocks.num_cached) == (blocks[:2], 8, 2, 0)
    assert_holds(p, b, b"aaaabbbb")


@pytest.mark.parametrize(
    ("tokens", "num_rows"),
    [
        (b"aaaabbbb", 8),
        (b"aaaabbbbcccc", 8),
        (b"aaaacccc", 4),
        (b"bbbb", 0),
        (b"aaa", 0),
    ],
)
def test_adopt_takes_the_longest_run(tokens: bytes, num_rows: int) -> None:
    p, b = Memory(8), CachedSequence()
    holding(p, b"aaaabbbb", insert=True)
    assert p.blocks.adopt(b, digests(tokens)) == num_rows
    assert_holds(p, b, tokens[:num_rows])
    p.blocks.free(b)
    assert p.blocks.num_used == 2


def test_the_older_block_keeps_its_key() -> None:
    p = Memory(8)
    a, b, c = holding(p, b"aaaa", insert=True), holding(p, b"aaaabbbb", insert=True), CachedSequence()
    p.blocks.adopt(c, digests(b"aaaabbbb"))
    assert c.blocks == [a.blocks[0], b.blocks[1]]
    p.blocks.insert(a, [b"!"])
    assert p.blocks.match([b"!"]) == 0  # a block has one key
    for sequence in (a, b, c):
        p.blocks.free(sequence)
    assert (p.blocks.num_cached, p.blocks.num_free) == (2, 8)


def test_the_least_recently_used_block_goes_first() -> None:
    p = Memory(5)
    a, b = holding(p, b"aaaabbbb", insert=True), holding(p, b"cccc", insert=True)
    p.blocks.free(a)
    p.blocks.free(b)
    again = CachedSequence()
    p.blocks.adopt(again, digests(b"aaaa"))
    p.blocks.free(again)
    known = (b"aaaabbbb", b"cccc")
    matches = []
    for num_rows in (8, 4, 4, 4):
        p.reserve(CachedSequence(), num_rows)
        matches.append([p.blocks.match(digests(tokens)) for tokens in known])
    # two blocks were never used; then the end of `a`, then `c`, and the beginning of `a`, adopted since, last
    assert matches == [[2, 1], [1, 1], [1, 0], [0, 0]]
    assert (p.blocks.num_free, p.blocks.num_cached) == (0, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_shared_block_is_copied_by_who_writes_first(order: tuple[int, int]) -> None:
    p = Memory(8)
    a = holding(p, b"aaaabb")
    pair = (a, p.blocks.fork(a))
    assert p.blocks.num_used == 2
    for i, new in zip(order, (b"cc", b"dddd"), strict=True):
        p.write(pair[i], new)
    assert_holds(p, pair[order[0]], b"aaaabbcc")
    assert_holds(p, pair[order[1]], b"aaaabbdddd")
    assert pair[0].blocks[0] == pair[1].blocks[0]
    assert p.blocks.num_used == 4


@pytest.mark.parametrize("tokens", [b"aaaa", b"aaaaaa"])
def test_a_fork_leaves_the_blocks_reserved_for_rows_to_come(tokens: bytes) -> None:
    p = Memory(8)
    a = holding(p, tokens)
    p.reserve(a, 8)
    b = p.blocks.fork(a)
    p.write(a, b"b")
    p.write(b, b"c")
    assert_holds(p, a, tokens + b"b")
    assert_holds(p, b, tokens + b"c")


def test_a_block_of_the_prefix_cache_is_never_written() -> None:
    p = Memory(3)
    a, b = holding(p, b"aaaabbbb", insert=True), CachedSequence()
    p.blocks.cut(a, 6)
    p.write(a, b"cc")
    assert_holds(p, a, b"aaaabbcc")
    assert (p.blocks.num_used, p.blocks.num_cached) == (2, 1)
    p.blocks.adopt(b, digests(b"aaaabbbb"))
    assert_holds(p, b, b"aaaabbbb")


def test_a_copy_needs_a_block() -> None:
    p = Memory(2)
    a = holding(p, b"aaaabb")
    b = p.blocks.fork(a)
    with pytest.raises(CapacityError, match="0 rows free and 4 are needed"):
        p.reserve(a, 1)
    p.blocks.free(b)
    p.reserve(a, 1)


def test_a_sequence_alone_needs_no_more_blocks_than_its_rows_fill() -> None:
    p = Memory(2)
    a = holding(p, b"aaaabbbb", insert=True)
    p.blocks.cut(a, 6)
    p.write(a, b"cc")
    assert_holds(p, a, b"aaaabbcc")
    assert p.blocks.match(digests(b"aaaabbbb")) == 1


def test_forget() -> None:
    p = Memory(8)
    a, b = holding(p, b"aaaa", insert=True), holding(p, b"bbbb", insert=True)
    p.blocks.free(a)
    p.blocks.forget()
    assert [p.blocks.match(digests(tokens)) for tokens in (b"aaaa", b"bbbb")] == [0, 0]
    assert (p.blocks.num_cached, p.blocks.num_free) == (0, 7)
    p.blocks.free(b)
    assert (p.blocks.num_cached, p.blocks.num_free) == (0, 8)


def test_torch_is_not_needed() -> None:
    modules = "omni.engine.block_manager, omni.engine.scheduler"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules, 'torch takes seconds to import'"
    subprocess.run([sys.executable, "-c", code], check=True)
