"""Which frames of a clip the model is shown, and when each of them is on the screen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from omni.encoders.config import FPS
from omni.encoders.track import SAME, Track
from omni.errors import MediaError, MediaLimitError, OptionError

MOST_FPS = 100_000
"""More than any camera's; numbers without bounds become none."""
SPARE = 0.1
"""Of the time between two frames: what is shown for less at the end of a clip needs no frame of its own."""


@dataclass(frozen=True)
class Sampling:
    """What is asked of a clip; OptionError where it makes no sense.

    Attributes:
        fps: frames a second.
        num_frames: how many instead, rounded to even.
        min_frames, max_frames: bounds of what `fps` comes to.
        start, end: seconds on the clip's time line; only frames between them are shown.
    """

    fps: float = FPS
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MOST_FPS or self.min_frames < 1 or self.max_frames < 2 or (self.num_frames or 2) < 2:
            raise OptionError(
                f"fps {self.fps}, min_frames {self.min_frames}, max_frames {self.max_frames}, num_frames {self.num_frames}: "
                f"not positive, too few, or more than {MOST_FPS} a second"
            )


PLAIN = Sampling()
"""What is asked where nothing is."""


@dataclass(frozen=True)
class Samples:
    """The frames that are shown.

    Attributes:
        frames: which frames of the track, ascending; one may be shown again and again.
        times: seconds on the clip's time line at which each is on the screen.
        fps: frames shown per second of the clip.
    """

    frames: tuple[int, ...]
    times: tuple[float, ...]
    fps: float


def sample(track: Track, asked: Sampling, most: int) -> Samples:
    """The published recipe where a clip has a constant rate, otherwise the same on its time line.

    most: frames that may be shown. Raises MediaError where no frame lies between start and end, MediaLimitError.
    """
    if track.rate is None:
        return _by_time(track, asked, most)
    first = float(track.seconds[0])
    start, end = (None if t is None else t - first for t in (asked.start, asked.end))
    frames = frame_indices(len(track.stamps), track.rate, replace(asked, start=start, end=end))
    times = tuple(float(t) for t in track.seconds[frames])
    return Samples(tuple(frames), times, len(frames) / (frames[-1] - frames[0] + 1) * track.rate)


def frame_indices(total: int, video_fps: float, asked: Sampling) -> list[int]:
    """Which of `total` frames the model is shown: an even number, spread evenly from the first to the last.

    A frame that is alone is shown twice. Raises MediaError where none lies between start and end.
    Source: qwen_omni_utils, `smart_nframes` and the frame range of its readers.
    """
    first, last = 0, total - 1
    if asked.start is not None:
        first = math.ceil(min(max(asked.start, 0.0), total / video_fps) * video_fps)
    if asked.end is not None:
        last = min(math.floor(min(max(asked.end, 0.0), total / video_fps) * video_fps), last)
    total = last - first + 1
    if total < 1:
        raise MediaError("no frame lies between its start and end; leave them out, or set them apart")
    if total == 1:
        return [first, first]
    if asked.num_frames is not None:
        count = min(2 * round(asked.num_frames / 2), total)
    else:
        most = 2 * (min(asked.max_frames, total) // 2)
        count = 2 * math.floor(min(max(total / video_fps * asked.fps, 2 * math.ceil(asked.min_frames / 2)), most, total) / 2)
    return _spread(first, last, count)


def _spread(first: int, last: int, count: int) -> list[int]:
    """`torch.linspace(first, last, count).round()`, to the bit: from both ends to the middle, in float32."""
    step = (np.float32(last) - np.float32(first)) / np.float32(count - 1)
    at = np.arange(count, dtype=np.float64)
    from_first, from_last = (first + float(step) * at), (last - float(step) * (count - 1 - at))
    return [int(i) for i in np.where(at < count // 2, from_first, from_last).astype(np.float32).round()]


def _by_time(track: Track, asked: Sampling, most: int) -> Samples:
    seconds = track.seconds
    start = max(float(seconds[0]), asked.start or 0.0)
    end = track.end if asked.end is None else min(track.end, asked.end)
    if end < start:
        raise MediaError("no frame lies between its start and end; leave them out, or set them apart")
    if asked.num_frames is not None:
        count, exact = 2 * round(asked.num_frames / 2), False
    else:
        asks = max(1, math.ceil((end - start) * asked.fps - SPARE))
        count = min(max(asks + asks % 2, 2 * math.ceil(asked.min_frames / 2)), 2 * (asked.max_frames // 2))
        exact = count == asks + asks % 2
    if count > most:
        raise MediaLimitError(f"{count} frames of it would be shown and the budget is {most}; ask for fewer")
    times = start + np.arange(count) / asked.fps if exact else np.linspace(start, end, count)
    frames = np.searchsorted(seconds, np.minimum(times, end) + SAME, side="right") - 1  # the last that came by then
    rate = count / (end - start) if end > start and not exact else asked.fps
    return Samples(tuple(int(i) for i in frames), tuple(float(t) for t in times), rate)
