"""Pieces placed by their stamps, against what stands where by construction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.encoders.timeline import Piece, Samples, Timeline

RATE = 1000


def ramp(num: int, first: int = 1) -> Samples:
    """Samples that are their own numbers, from 1: silence shows."""
    return np.arange(first, first + num, dtype=np.float32)[None]


def pieces(times: Sequence[float | None], size: int = 20) -> list[Piece]:
    return [Piece(ramp(size, 1 + i * size), time) for i, time in enumerate(times)]


def placed(timeline: Timeline, given: Sequence[Piece]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *(samples[0] for samples in timeline.place(given))])


@pytest.mark.parametrize("origin", [None, 0.0])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_without_holes_is_left_as_it_is(origin: float | None, channels: int) -> None:
    whole = np.repeat(ramp(4000), channels, 0)
    cut = np.split(whole, range(33, 4000, 33), 1)
    given = [Piece(samples, i * 0.033) for i, samples in enumerate(cut)]
    timeline = Timeline(RATE, origin)
    np.testing.assert_array_equal(np.concatenate(list(timeline.place(given)), 1), whole)
    assert (timeline.holes, timeline.left_out) == ([], 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 900)), min_size=1, max_size=50), st.integers(0, 3000))
def test_every_piece_lies_where_its_stamp_says(cuts: list[tuple[int, int]], before: int) -> None:
    """Pieces of any length with any holes between them, the smallest included: none is off by more than 20 ms."""
    at, stamps, given = before, [], []
    for i, (size, hole) in enumerate(cuts):
        at += hole if i else 0
        stamps.append(at)
        given.append(Piece(np.full((1, size), i + 1, np.float32), at / RATE))
        at += size
    out = placed(Timeline(RATE, 0.0), given)
    for i, (size, _) in enumerate(cuts):
        found = np.flatnonzero(out == i + 1)
        assert len(found) == size
        assert abs(found[0] - stamps[i]) <= 20
    assert stamps[0] == np.flatnonzero(out)[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=60, max_size=200), st.integers(0, 19))
def test_jitter_changes_nothing(late: list[int], early: int) -> None:
    """Stamps of a busy clock: late by whatever, for less than half a second at a time, and early by less than 20 ms."""
    stamps = [i * 20 + (late[i] if i % 10 and i < len(late) - 10 else -(i % 2) * early) for i in range(len(late))]
    stamps[0] = 0
    out = placed(Timeline(RATE, None), pieces([stamp / RATE for stamp in stamps]))
    np.testing.assert_array_equal(out, ramp(20 * len(late))[0])


def test_a_slow_clock_does_not_drift_away() -> None:
    """900 parts in a million of 7 minutes come to 0.36 s; the last sound lies where its stamp says."""
    times = [i * 0.02 * 1.0009 for i in range(20_000)]
    out = placed(Timeline(RATE, None), pieces(times))
    assert abs(np.flatnonzero(out == 20 * 19_999 + 1)[0] - times[-1] * RATE) <= 20.5
    assert (out == 0).sum() < 400


@pytest.mark.parametrize(
    ("origin", "first", "want"),
    [(0.0, 0.3, 300), (0.0, 0.007, 7), (-2.5, 0.0, 2500), (0.25, 0.0, -250), (0.007, 0.0, -7), (5000.0, 5000.25, 250)],
)
def test_the_first_sound_lies_where_its_stamp_says_exactly(origin: float, first: float, want: int) -> None:
    timeline = Timeline(RATE, origin)
    out = placed(timeline, pieces([first + i * 0.02 for i in range(40)]))
    assert len(out) == 800 + want
    np.testing.assert_array_equal(out, np.pad(ramp(800)[0], (want, 0)) if want > 0 else ramp(800)[0, -want:])
    assert (timeline.holes, timeline.left_out) == ([], 0)


def test_after_damage_stamps_are_believed_to_the_sample() -> None:
    timeline = Timeline(RATE, None)
    out = placed(timeline, [Piece(ramp(20), 0.0), Piece(ramp(20, 21), 0.033, after_damage=True)])
    assert np.flatnonzero(out == 0).tolist() == [*range(20, 33)]
    assert timeline.holes == []


def test_what_lies_over_other_sound_is_left_out() -> None:
    timeline = Timeline(RATE, None)
    times = [i * 0.02 for i in range(50)] + [i * 0.02 - 0.21 for i in range(50, 150)]
    out = placed(timeline, pieces(times))
    assert abs(len(out) - (150 * 20 - 210)) <= 20
    assert timeline.left_out == pytest.approx(0.21, abs=0.02)
    assert out[-1] == 3000


@pytest.mark.parametrize(("jump", "jumps"), [(-0.9, False), (-26.5 * 3600, True), (11.0, True), (50_000.0, True)])
def test_a_clock_that_is_set_anew_moves_nothing(jump: float, jumps: bool) -> None:
    times = [i * 0.02 for i in range(60)] + [i * 0.02 + jump for i in range(60, 120)]
    out = placed(Timeline(RATE, None, jumps=jumps), pieces(times))
    np.testing.assert_array_equal(out, ramp(2400)[0])


def test_a_long_hole_is_filled_a_second_at_a_time() -> None:
    out = list(Timeline(RATE, None).place(pieces([0.0, 3600.0])))
    assert max(samples.shape[1] for samples in out) == RATE
    assert sum(samples.shape[1] for samples in out) == 3600 * RATE + 20


def test_pieces_without_stamps_follow_each_other() -> None:
    np.testing.assert_array_equal(placed(Timeline(RATE, None), pieces([None, None, 0.04, None])), ramp(80)[0])
