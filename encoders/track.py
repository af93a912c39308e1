"""What the packets of a clip say of its pictures and their times, whatever its header states. FFmpeg demuxes.

No frame is decoded here. Errors as in `pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from omni.encoders.containers import demuxed, known, sound_streams
from omni.encoders.pictures import check_size
from omni.encoders.sound_track import SoundTrack
from omni.encoders.sources import Budget, Media, Tell, missing_bytes
from omni.errors import MediaError, MediaLimitError

Stamps = npt.NDArray[np.int64]

SAME = 1e-3
"""Seconds that are no difference: writers round to whole milliseconds."""
LONG = 0.5
"""Seconds for which a last frame may stay in a clip of constant rate."""
SEEKABLE = ("mov", "matroska", "webm")
"""Containers with an index of their keyframes."""


@dataclass(frozen=True)
class Track:
    """The moving pictures of a clip.

    Attributes:
        stamps: of its frames in the order in which they are shown, in ticks.
        tick: seconds.
        keys: the stamps of those that are decoded without others, in order; none where they are not known for sure.
        hold: seconds for which the last frame is shown.
        rate: frames a second where it is constant, otherwise None.
        in_order: the container stamps frames in another order than they are shown, so that only their number tells them.
        origin: seconds on the container's clock where the time line of picture and sound begins: with whichever is sooner.
        has_audio: whether it has a sound that can be decoded.
    """

    stamps: Stamps
    tick: float
    keys: Stamps
    hold: float
    rate: float | None
    in_order: bool
    origin: float
    has_audio: bool

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """When each frame comes, on the time line of picture and sound."""
        first = self.stamps[0] * self.tick - self.origin
        return (self.stamps - self.stamps[0]) * self.tick + (first if first > SAME else 0.0)

    @property
    def end(self) -> float:
        """When the last frame goes."""
        return float(self.seconds[-1]) + self.hold


def read_track(media: Media, budget: Budget, tell: Tell) -> Track:
    """One pass over the packets. Raises MediaError where there are no pictures, MediaLimitError."""
    missing = missing_bytes(media)
    with demuxed(media, None) as container:
        stream = picture_stream(media, container)
        if stream.width and stream.height:
            check_size(media.name, stream.width, stream.height, budget)
        tick, kinds = float(stream.time_base), container.format.name.split(",")
        shown: list[tuple[int, int]] = []  # stamp and duration
        keys: list[int] = []
        in_order = "avi" in kinds  # which has one stamp a packet, for its decoding
        for packet in packets(container, stream):
            stamp = packet.dts if in_order or packet.pts is None else packet.pts
            if stamp is None:
                stamp, in_order = len(shown), True
            if packet.is_keyframe:
                keys.append(stamp)
            if not _is_shown(packet, stream):
                continue
            shown.append((stamp, packet.duration or 0))
            if len(shown) > budget.max_frames:
                raise MediaLimitError(
                    f"{media.name} has {len(shown)} frames or more and the budget is {budget.max_frames}; cut it"
                )
        if not shown:
            raise MediaError(f"{media.name} holds no frames: it is damaged or cut short; get the whole file")
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        stated = container.duration / 1e6 if container.duration and not missing else None
    begins = _sound_begins(media, tell)
    shown.sort()
    stamps = np.array([stamp for stamp, _ in shown], np.int64)
    # what is shown before the first keyframe refers to frames of a longer video, which are not here
    led = 0 if in_order or not keys else int(np.searchsorted(stamps, keys[0]))
    if (lost := float(stamps[led] - stamps[0]) * tick) >= LONG:
        tell(f"{media.name}: its first {lost:.1f} s cannot be decoded, since it was cut out of a longer video")
    stamps = stamps[led:]
    if "mov" in kinds:  # whose lengths are from one decoding to the next, and add up to all that is shown
        hold = max(0, int(stamps[0]) + sum(length for _, length in shown[led:]) - int(stamps[-1])) * tick
    else:  # Matroska's are guesses where its writer gave none
        hold = 0.0 if "matroska" in kinds else shown[-1][1] * tick
    if not hold and stated is not None:
        hold = stated - float(stamps[-1]) * tick
        hold = min(hold, float(np.diff(stamps).max(initial=0)) * tick)  # a wrong length would have it stay for ever
    rate = _constant(stamps, tick, hold, rates)
    if rate or hold <= 0:
        hold = 1 / rate if rate else float(np.median(np.diff(stamps))) * tick
    seconds = float(stamps[-1] - stamps[0]) * tick + hold
    if seconds > budget.max_seconds + SAME:
        raise MediaLimitError(f"{media.name} lasts {seconds:.1f} s and the budget is {budget.max_seconds:g} s; cut it")
    first = float(stamps[0]) * tick
    if missing:
        tell(f"{media.name} is cut short: {missing} bytes are missing, so that its pictures end after {seconds:.1f} s")
    return Track(
        stamps,
        tick,
        np.array(sorted(keys) if not in_order and set(SEEKABLE) & set(kinds) else [], np.int64),
        hold,
        rate,
        in_order,
        first if begins is None else min(first, begins),
        begins is not None,
    )


def picture_stream(media: Media, container: Any) -> Any:
    """The first stream of moving pictures; the cover of a song is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise MediaError(f"{media.name} has no moving pictures; pass it as a sound")
    return known(media, next((s for s in streams if s.codec_context is not None), streams[0]))


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, up to where the file can be read."""
    reader = container.demux(stream)
    while True:
        try:
            packet = next(reader, None)
        except MemoryError:
            raise
        except av.FFmpegError:
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def _is_shown(packet: Any, stream: Any) -> bool:
    """Whether a packet becomes a frame: not those that an edit list leaves out, nor VP8's that only others refer to."""
    if stream.codec_context.name == "vp8" and not memoryview(packet)[0] >> 4 & 1:
        return False
    return not packet.is_discard


def _sound_begins(media: Media, tell: Tell) -> float | None:
    """Seconds on the container's clock where its sound begins; None where there is none."""
    number = 0
    while True:
        with demuxed(media, None) as container:
            streams = sound_streams(container)
            if not streams:
                return None
            sound = SoundTrack(media, container, streams[number])
            if piece := next(sound.pieces(), None):
                return piece.time or 0.0
            number += 1
            if number == len(streams):
                if sound.is_damaged:
                    tell(f"{media.name}: nothing of its sound can be decoded, so that it is left out")
                return None


def _constant(stamps: Stamps, tick: float, hold: float, stated: list[float]) -> float | None:
    """Which of the stated rates, or else their own, the stamps keep but for the rounding of their clock; None: no rate.

    There is none either where the last frame is held for longer, on a screen that came to rest, or of two frames one.
    """
    n, after = len(stamps), (stamps - stamps[0]) * tick
    if n == 1:
        return stated[0] if stated else 1.0
    measured = (n - 1) / float(after[-1]) if after[-1] > 0 else math.nan
    off = max(tick, SAME) * 1.001
    for rate, tolerance in [*((rate, off) for rate in stated), (measured, 2 * off)]:
        if rate > 0 and float(np.abs(np.arange(n) / rate - after).max()) <= tolerance:
            unlike = n == 2 and abs(hold - 1 / rate) > 2 * off
            return None if hold > max(2 / rate, LONG) or (hold and unlike) else rate
    return None
