"""Frames of a clip, decoded one at a time. FFmpeg decodes.

What cannot be decoded is passed over, and told. Errors as in `pictures`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt

from omni.encoders.containers import demuxed
from omni.encoders.pictures import check_size
from omni.encoders.sources import Budget, Media, Tell
from omni.encoders.track import Stamps, Track, packets, picture_stream
from omni.errors import MediaError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""`[H, W, 3]`, RGB, upright"""

WORTH_IT = 16
"""Frames to be passed over, above which a jump to a keyframe is quicker than to decode them."""


class _Unsure(Exception):
    """Something is not as it should be, and so may be what comes."""


def decoded(media: Media, track: Track, wanted: Sequence[int], budget: Budget, tell: Tell) -> Iterator[Pixels]:
    """The frames `wanted`, one array each; they ascend, and one that comes again is the same object.

    One that cannot be decoded is replaced by the one before it, or by the first that can. Raises MediaError where none can
    be, MediaLimitError.
    """
    stamps, num = track.stamps[list(wanted)], 0
    try:
        for pixels in _Reader(media, track, budget, stamps).read():
            yield pixels
            num += 1
    except _Unsure:
        reader = _Reader(media, track, budget, stamps, careful=True)
        yield from reader.read(num)
        if lost := reader.num_lost:
            of = f"{lost} of {reader.num_passed} frames"
            tell(f"{media.name}: {of} could not be decoded; those around them are shown instead")


class _Reader:
    """Goes through a clip once, from its beginning to the last frame that is wanted.

    It jumps over what is not wanted, decodes with several threads, and raises `_Unsure` once anything is not in order.
    careful: it decodes all, packet by packet, and goes on after damage.
    """

    def __init__(self, media: Media, track: Track, budget: Budget, stamps: Stamps, *, careful: bool = False) -> None:
        self.media, self.track, self.budget, self.stamps, self.careful = media, track, budget, stamps, careful
        self.num_good = self.num_failed = self.num_passed = 0
        self.matrices: dict[int, Any] = {}

    @property
    def num_lost(self) -> int:
        """Frames that could not be decoded; a packet that makes none without fault is no frame."""
        return max(0, self.num_passed - self.num_good) if self.num_failed else 0

    def read(self, first: int = 0) -> Iterator[Pixels]:
        """The pixels of `stamps` from the `first` on."""
        at, before, pixels, of = 0, None, np.empty(0, np.uint8), None
        for stamp, frame in self._walk():
            while at < len(self.stamps) and self.stamps[at] <= stamp:
                came = self.stamps[at] == stamp
                if not came and not self.careful:
                    raise _Unsure
                shown = frame if came or before is None else before
                if at >= first:
                    if of is not shown:
                        pixels, of = self._pixels(shown), shown
                    yield pixels
                at += 1
            before = frame
            if at == len(self.stamps):
                self.num_passed = int(np.searchsorted(self.track.stamps, stamp, side="right"))
                return
        if not self.careful:
            raise _Unsure
        self.num_passed = len(self.track.stamps)
        if before is None:
            none = f"none of its {self.num_passed} frames can be decoded"
            raise MediaError(f"{self.media.name} is damaged or cut short: {none}; get it again")
        if of is not before:
            pixels = self._pixels(before)
        for _ in range(max(at, first), len(self.stamps)):
            yield pixels

    def _walk(self) -> Iterator[tuple[int, Any]]:
        """The frames that can be decoded, in the order in which they are shown, with their stamps."""
        with demuxed(self.media, None) as container:
            stream = picture_stream(self.media, container)
            stream.thread_type = "NONE" if self.careful else "AUTO"  # a fault would take other frames with it
            # before a frame larger than its header states is allocated; FFmpeg counts the padding of blocks too
            stream.codec_context.options = {"max_pixels": str(2 * self.budget.max_pixels + (1 << 16))}
            seen, fed = int(self.track.stamps[0]) - 1, None
            landing: int | None = None
            while True:
                for packet in packets(container, stream):
                    if landing is not None:
                        if packet.pts is None or packet.pts > landing or not packet.is_keyframe:
                            raise _Unsure
                        landing = None
                    if packet.is_keyframe and packet.pts is not None:
                        fed = packet.pts
                    for stamp, frame in self._decode(stream, packet, seen):
                        seen = stamp
                        yield stamp, frame
                    if (key := self._next_key(seen, fed)) is not None:
                        container.seek(key, stream=stream)
                        landing, seen = key, key - 1
                        break
                else:
                    break
            yield from self._decode(stream, None, seen)

    def _next_key(self, seen: int, fed: int | None) -> int | None:
        """The keyframe that the next wanted frame is decoded from, where much lies before it that is not wanted."""
        keys, at = self.track.keys, int(np.searchsorted(self.stamps, seen, side="right"))
        if self.careful or fed is None or not len(keys) or at == len(self.stamps):
            return None
        key = int(keys[max(0, int(np.searchsorted(keys, self.stamps[at], side="right")) - 1)])
        between = np.searchsorted(self.track.stamps, [max(seen, fed), key])
        return key if key > fed and between[1] - between[0] >= WORTH_IT else None

    def _decode(self, stream: Any, packet: Any, seen: int) -> Iterator[tuple[int, Any]]:
        """What a packet brings, or where there is none what is left, after the stamp that was seen last."""
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            self._fail()
            return
        for frame in frames:
            stamp = frame.pts
            if self.track.in_order or stamp is None:
                stamp = int(self.track.stamps[min(self.num_good + self.num_failed, len(self.track.stamps) - 1)])
            if stamp <= seen:  # what is shown before the first keyframe, or an edit list leaves out
                continue
            if frame.is_corrupt:
                self._fail()
                continue
            check_size(self.media.name, frame.width, frame.height, self.budget)
            self.num_good, seen = self.num_good + 1, stamp
            yield stamp, frame

    def _pixels(self, frame: Any) -> Pixels:
        pixels: Pixels = frame.to_ndarray(format="rgb24")
        # a frame that was asked for its matrix is held by a circle of references until Python looks for such
        if frame.rotation not in self.matrices:
            self.matrices[frame.rotation] = frame.side_data.get("DISPLAYMATRIX")
        matrix = self.matrices[frame.rotation]
        if matrix is None:
            return pixels
        a, b, _, c, d = struct.unpack("5i", bytes(matrix)[:20])  # pixel (x, y) is shown at (a x + c y, b x + d y)
        if abs(b) > abs(a):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])

    def _fail(self) -> None:
        if not self.careful:
            raise _Unsure
        self.num_failed += 1
