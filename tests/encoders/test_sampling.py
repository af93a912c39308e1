"""Which frames are shown: the published recipe, and what is on the screen at its times where frames come as they like."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from omni.encoders.clips import Clip
from omni.encoders.sampling import Sampling, frame_indices, sample
from omni.encoders.track import Track
from omni.errors import MediaError, MediaLimitError, OptionError
from tests.encoders.samples import clip_of, film, levels


def track(times: list[float], hold: float, rate: float | None = None, origin: float = 0.0) -> Track:
    """Frames at these seconds of the container's clock."""
    stamps = np.array([round(time * 1000) for time in times])
    return Track(stamps, 1e-3, np.array([], np.int64), hold, rate, False, origin, False)


@pytest.mark.parametrize(
    ("total", "rate", "options", "want"),
    [
        (30, 10, {}, [0, 6, 12, 17, 23, 29]),  # 3 s at 2 a second; steps of 5.8
        (250, 25, {"num_frames": 2}, [0, 249]),
        (10, 10, {}, [0, 3, 6, 9]),  # 2 frames become min_frames
        (3, 10, {}, [0, 2]),  # no more than there are, and even
        (100, 10, {"max_frames": 5}, [0, 33, 66, 99]),
        (10, 10, {"min_frames": 5}, [0, 2, 4, 5, 7, 9]),  # min rounds up to 6
        (9, 1, {"num_frames": 3}, [0, 3, 5, 8]),  # 1.5 rounds to the even 2; 2.67 and 5.33
        (6, 1, {"num_frames": 5, "fps": 9}, [0, 2, 3, 5]),  # 2.5 rounds to the even 2, so 4: 1.67 and 3.33
        (5, 1, {"num_frames": 8}, [0, 1, 2, 3, 4]),  # at most all
        (12, 1, {"num_frames": 4, "start": 1, "end": 8.9}, [1, 3, 6, 8]),  # 3.33 and 5.67
        (6, 1, {"num_frames": 2, "start": 0.5}, [1, 5]),
        (11, 1, {"num_frames": 4, "end": 99}, [0, 3, 7, 10]),
        (2, 30, {}, [0, 1]),
        (1, 30, {}, [0, 0]),  # alone it is shown twice
        (1, 30, {"num_frames": 4}, [0, 0]),
        (9, 1, {"start": 4, "end": 4.5}, [4, 4]),
    ],
)
def test_frame_indices_by_hand(total: int, rate: float, options: dict[str, Any], want: list[int]) -> None:
    assert frame_indices(total, rate, Sampling(**options)) == want


def test_frame_indices_round_half_to_even() -> None:
    assert frame_indices(6, 1, Sampling(num_frames=3)) == [0, 2, 3, 5]
    assert frame_indices(14, 1, Sampling(num_frames=3, start=0)) == [0, 4, 9, 13]
    # 0, 7.5, ... is not reachable with two ends; an inner half is: 0, 2.5, 5, ... of eleven frames in five steps
    assert torch.linspace(0, 5, 3).round().tolist() == [0, 2, 5]


@pytest.mark.parametrize("asked", [{"start": 1.1}, {"start": 0.5, "end": 0.2}, {"end": -1.0, "start": 0.1}])
def test_frame_indices_needs_one(asked: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="no frame lies between"):
        frame_indices(1, 1, Sampling(**asked))


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 250_000), st.integers(0, 1000), st.floats(0, 1))
def test_the_spread_is_torchs(total: int, first: int, share: float) -> None:
    count = max(2, min(round(share * total), 3000))
    asked = Sampling(num_frames=count, start=float(first))
    indices = frame_indices(total + first, 1.0, asked)
    assert indices == torch.linspace(first, total + first - 1, len(indices)).round().long().tolist()


@pytest.mark.parametrize(
    "options", [{"fps": 0}, {"fps": -1.0}, {"fps": 1e308}, {"num_frames": 1}, {"max_frames": 1}, {"min_frames": 0}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Sampling(**options)


@pytest.mark.parametrize(
    ("asked", "frames", "times"),
    [
        ({}, [0] * 8 + [1] + [2] * 3, [k / 2 for k in range(12)]),
        ({"fps": 1.0}, [0] * 4 + [1, 2], [0, 1, 2, 3, 4, 5]),
        ({"fps": 0.5}, [0, 0, 1, 2], [0, 2, 4, 6]),  # three become four: an odd number is filled up
        ({"fps": 0.1}, [0, 0, 1, 2], [0, 2, 4, 6]),  # min_frames, spread from the first to the last
        ({"num_frames": 5}, [0, 0, 1, 2], [0, 2, 4, 6]),
        ({"max_frames": 5}, [0, 0, 1, 2], [0, 2, 4, 6]),
        ({"start": 3.9, "end": 4.9, "fps": 4.0}, [0, 2, 2, 2], [3.9, 4.15, 4.4, 4.65]),
        ({"start": 1.2, "end": 4.05, "fps": 1.0}, [0, 0, 0, 1], [1.2, 2.2, 3.2, 4.2]),  # nothing from after the end
        ({"start": 4.05, "fps": 2.0}, [1, 2, 2, 2], [4.05, 4.55, 5.05, 5.55]),
    ],
)
def test_a_static_screen_is_shown_for_as_long_as_it_stood(
    asked: dict[str, Any], frames: list[int], times: list[float]
) -> None:
    shown = sample(track([0, 4.0, 4.1], 1.9), Sampling(**asked), 1000)
    assert list(shown.times) == pytest.approx(times)
    assert list(shown.frames) == frames


def test_what_comes_at_a_time_but_for_rounding_is_on_the_screen_then() -> None:
    assert sample(track([0, 0.4999, 1.0004, 1.7], 0.3), Sampling(), 1000).frames == (0, 1, 2, 2)


@pytest.mark.parametrize("asked", [{"start": 6.1}, {"start": 3.0, "end": 2.0}, {"end": -1.0}])
def test_nothing_between_start_and_end(asked: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="no frame lies between"):
        sample(track([0, 4.0, 4.1], 1.9), Sampling(**asked), 1000)


def test_more_frames_than_the_budget() -> None:
    with pytest.raises(MediaLimitError, match="2000 frames of it would be shown and the budget is 1000"):
        sample(track([0, 4.0, 4.1], 1.9), Sampling(num_frames=2000), 1000)


def test_a_picture_that_begins_after_the_sound() -> None:
    constant = sample(track([3.0 + i / 10 for i in range(40)], 0.1, 10.0, origin=1.0), Sampling(), 1000)
    assert constant.times == pytest.approx([2.0, 2.6, 3.1, 3.7, 4.2, 4.8, 5.3, 5.9], abs=1e-6)
    varying = sample(track([3.0, 4.2, 4.3], 0.7, origin=1.0), Sampling(), 1000)
    assert varying.times == (2.0, 2.5, 3.0, 3.5)
    assert sample(track([3.0, 4.2, 4.3], 0.7, origin=1.0), Sampling(start=3.1, end=3.6), 1000).frames == (0, 1, 2, 2)


@pytest.mark.parametrize("rate", [5.0, 10.0, 23.976])
@pytest.mark.parametrize("seconds", [0.9, 3.0, 4.3, 4.7, 60.0, 61.2])
@pytest.mark.parametrize("asked", [{}, {"fps": 1.0}, {"max_frames": 10}, {"start": 0.51}, {"num_frames": 6}])
def test_the_published_clock_stands_where_it_is_a_grid_off_at_most(
    rate: float, seconds: float, asked: dict[str, Any]
) -> None:
    sampling = Sampling(**asked)
    shown = sample(track([i / rate for i in range(round(seconds * rate))], 1 / rate, rate), sampling, 1000)
    clock = Clip(iter(()), shown.times, shown.fps, sampling).clock()
    after = [time - (sampling.start or 0) for time in shown.times]
    told = [i / sampling.fps for i in range(len(after))] if clock is None else list(clock)
    assert max(abs(a - b) for a, b in zip(told, after, strict=True)) < 2 / sampling.fps
    if clock is not None:
        assert list(clock) == pytest.approx(after)


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # each writes a film
@given(
    st.integers(0, 2**32),
    st.sampled_from([("mp4", "libx264"), ("webm", "libvpx"), ("mkv", "libx264"), ("ts", "libx264")]),
    st.sampled_from([2.0, 5.0, 8.0]),
)
def test_a_film_of_200_random_times_places_every_event(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: tuple[str, str], fps: float
) -> None:
    """What a frame brings is placed half way between the last sample without it and the first with it: half a frame off."""
    gaps = np.random.default_rng(seed).integers(15, 400, 200)
    times = np.cumsum([0, *gaps[1:]]) / 1000
    path = film(tmp_path_factory.mktemp("films") / f"a.{kind[0]}", kind[1], times.tolist(), last=gaps[0] / 1000)
    clip = clip_of(path, fps=fps)
    clock = clip.clock() or tuple(i / fps for i in range(len(clip.times)))
    seen = levels(clip.frames)
    assert len(seen) == pytest.approx(times[-1] * fps, abs=2 + 0.4 * fps)  # not all containers tell the last one's length
    rounding = 2.1e-3  # of the clocks of containers, and what counts as the same
    for i, (level, time) in enumerate(zip(seen, clock, strict=True)):
        on = {bisect_right(times.tolist(), time + off) - 1 for off in (-rounding, 0, rounding)}
        assert level in {j % 32 for j in on}
        if i and level != seen[i - 1]:
            events = [times[j] for j in on if j % 32 == level]
            assert min(abs(time - 0.5 / fps - event) for event in events) <= 0.5 / fps + rounding
