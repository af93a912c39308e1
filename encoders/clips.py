"""One clip: a video or a list of pictures as frames and when they are on the screen, within a budget.

Frames are handed over one at a time. Errors as in `pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from omni.encoders.frames import Pixels, decoded
from omni.encoders.pictures import ImageSource, read_image
from omni.encoders.sampling import PLAIN, Sampling, sample
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Media, Tell, check_whole, opened, tell_python
from omni.encoders.track import SAME, Track, read_track
from omni.errors import MediaError, MediaLimitError

VideoSource: TypeAlias = str | Path | bytes | Sequence[ImageSource]


@dataclass(frozen=True)
class Clip:
    """A clip that is open.

    Attributes:
        frames: uint8 RGB `[H, W, 3]`, upright, one for each of `times`; to be taken once. A frame that is on the screen at
            several of the times is the same object. Those of a video may change their size on the way.
        times: seconds on the clip's time line at which each frame is on the screen.
        fps: frames shown per second of the clip.
        asked: what was asked for.
        constant: whether its frames came at a constant rate.
        has_audio: whether it has a sound that can be decoded.
        origin: seconds on the container's clock where the clip's time line begins: where its pictures or its sound do,
            whichever is sooner.
    """

    frames: Iterator[Pixels]
    times: tuple[float, ...]
    fps: float
    asked: Sampling
    constant: bool = True
    has_audio: bool = False
    origin: float = 0.0

    def clock(self) -> tuple[float, ...] | None:
        """Seconds of each frame after the cut begins; None where the published clock tells them, `1 / asked.fps` a frame.

        It does for a constant rate where the first is less than half a frame off and none is two, which is what the recipe
        itself rounds by; for all others where it is right.
        """
        start, fps = max(0.0, self.asked.start or 0.0), self.asked.fps
        after = tuple(time - start for time in self.times)
        off = [abs(time - i / fps) for i, time in enumerate(after)]
        if self.constant and off[0] < 0.5 / fps and max(off) < 2 / fps:
            return None
        return None if max(off) <= SAME else after


@contextmanager
def open_clip(
    source: VideoSource, asked: Sampling = PLAIN, budget: Budget = DEFAULT_BUDGET, tell: Tell = tell_python
) -> Iterator[Clip]:
    """A video file whose frames are picked as `sampling.sample` says, or a list of frames taken whole.

    source: a path, `file://` URL, data URL or the bytes of a video; or pictures of one size in order, `fps` apart, to
    which the last is added once more if their number is odd.
    tell: is given a sentence for everything that was lost. Raises MediaError, MediaLimitError.
    """
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        yield _of_pictures(source, asked, budget)
        return
    with opened(source, budget) as media:
        track = _track(media, budget, tell)
        try:
            samples = sample(track, asked, budget.max_frames)
        except MediaError as e:
            raise type(e)(f"{media.name}: {e}") from e
        frames = decoded(media, track, samples.frames, budget, tell)
        yield Clip(frames, samples.times, samples.fps, asked, track.rate is not None, track.has_audio, track.origin)


def _track(media: Media, budget: Budget, tell: Tell) -> Track:
    try:
        check_whole(media)
    except MediaError as missing:
        try:
            track = read_track(media, budget, tell, whole=False)
        except MediaLimitError:
            raise
        except MediaError as e:
            raise missing from e
        tell(f"{missing}; what is there ends after {track.end:.1f} s")
        return track
    return read_track(media, budget, tell)


def _of_pictures(source: Sequence[ImageSource], asked: Sampling, budget: Budget) -> Clip:
    if not source:
        raise MediaError("the list of frames is empty; pass at least one")
    if len(source) > budget.max_frames:
        raise MediaLimitError(f"{len(source)} frames and the budget is {budget.max_frames}; pass fewer")
    count = len(source) + len(source) % 2
    return Clip(_pictures(source, budget), tuple(i / asked.fps for i in range(count)), asked.fps, asked)


def _pictures(source: Sequence[ImageSource], budget: Budget) -> Iterator[Pixels]:
    pixels = first = None
    for i, item in enumerate(source):
        pixels = np.array(read_image(item, budget))
        first = pixels.shape if first is None else first
        if pixels.shape != first:
            size, other = (f"{shape[1]} x {shape[0]}" for shape in (first, pixels.shape))
            raise MediaError(f"frame {i} is {other} and the first is {size}; make them one size")
        yield pixels
    if len(source) % 2 and pixels is not None:
        yield pixels
