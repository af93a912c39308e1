"""The sound track of a container: packets to samples with their stamps, past what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from omni.encoders.sources import Media, missing_bytes, unstated_share
from omni.encoders.timeline import Piece, Samples
from omni.errors import MediaError, MediaLimitError

WILD = 10.0
"""Of what a lossy decoder makes, more than this many times full scale is damage."""
LOSSES = 0.1
"""Seconds that a file may be shorter than it states: encoders count their padding in different ways."""
RATES = 1000, 384_000
"""Hz, of files."""
MAX_CHANNELS = 64
# whose demuxers find packets in a row of bytes, and count up their stamps
_BARE = ("mp3", "aac")
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_MP3 = ("mp3", "mp3float")
# files are joined in these, and clocks set anew
JUMPY = ("mpegts", "mpeg", "ogg", "flv")


def scaled(samples: np.ndarray[Any, Any]) -> Samples:
    """Samples of any type as float32: integers by their range, floats as they are."""
    # integers round to 24 bits; powers of two then divide exactly
    out: Samples = samples.astype(np.float32, copy=samples.dtype.kind != "f")
    if samples.dtype == np.uint8:
        out -= 128
        out /= 128
    elif samples.dtype.kind == "i":
        out /= -float(np.iinfo(samples.dtype).min)
    return out


def peak(samples: Samples) -> float:
    """NaN where there is one."""
    return float(np.maximum.reduce(np.abs(samples), axis=None, initial=0))


def _check_shape(name: str, rate: int, channels: int) -> None:
    """Raise MediaLimitError where a header states what no recording has; 0 where it states nothing."""
    if rate and not RATES[0] <= rate <= RATES[1]:
        raise MediaLimitError(f"{name} has a sample rate of {rate} Hz; convert it to one within {RATES[0]} and {RATES[1]}")
    if channels > MAX_CHANNELS:
        raise MediaLimitError(f"{name} has {channels} channels and {MAX_CHANNELS} are the most; mix it down first")


class _Reservoir:
    """Says which frames of MP3 need bytes that were lost: their own are kept in frames before them, up to half a second.

    FFmpeg decodes them all the same, from whatever it read last, and mixes what comes of it into the next one.
    """

    def __init__(self) -> None:
        self._there: int | None = None  # bytes that came since some were lost; None where all are there
        self._torn = False

    def lose(self) -> None:
        """A frame could not be read."""
        self._there, self._torn = 0, False

    def is_torn(self, packet: bytes) -> bool:
        """Whether what is decoded of the next frame is not what was encoded."""
        if self._there is None or len(packet) < 8:
            return False
        is_first_mpeg, is_mono = packet[1] >> 3 & 3 == 3, packet[3] >> 6 == 3
        at = 4 if packet[1] & 1 else 6  # behind a checksum
        back = packet[at] << 1 | packet[at + 1] >> 7 if is_first_mpeg else packet[at]
        side = (17 if is_mono else 32) if is_first_mpeg else (9 if is_mono else 17)
        mixed, self._torn = self._torn, back > self._there
        self._there = self._there + len(packet) - at - side if self._torn or mixed else None
        return self._torn or mixed


class SoundTrack:
    """Decodes one stream of an open container, once.

    Attributes:
        rate: of its samples, in Hz; 0 before the first.
        lossless: floats are what somebody wrote, not what a decoder made of less.
    """

    def __init__(self, media: Media, container: Any, stream: Any) -> None:
        self._media, self._container, self._stream = media, container, stream
        self.rate = 0
        _check_shape(media.name, stream.codec_context.sample_rate, stream.codec_context.channels)
        self.lossless = stream.codec_context.name.startswith("pcm_")
        if stream.codec_context.name == "flac":  # which would make noise of a damaged frame, and can know
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self._first: float | None = None
        self._heard = 0.0  # seconds
        self._read = self._num_packets = 0  # bytes of packets that were decoded
        self._shift = 0.0  # by what stamps that were counted up are late
        self._damage: list[list[float]] = []  # places: when, and seconds
        self._end = 0.0  # of all that was read, of whichever stream
        self._whole = self._broken_off = False

    def pieces(self) -> Iterator[Piece]:
        """What can be decoded, in order."""
        broken, tick = False, float(self._stream.time_base)
        reservoir = _Reservoir() if self._stream.codec_context.name in _MP3 else None
        for packet in self._packets():
            time, seconds = None if packet.pts is None else packet.pts * tick, (packet.duration or 0) * tick
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError:
                if self._is_bare and any(tag in bytes(packet) for tag in _TAGS):
                    continue  # what is written between songs that were joined
                self._lose(time, self._lost(packet.size, seconds))
                if reservoir:
                    reservoir.lose()
                broken = True
                continue
            self._read, self._num_packets = self._read + packet.size, self._num_packets + 1
            torn = reservoir is not None and reservoir.is_torn(bytes(packet))
            for frame in frames:
                piece = self._piece(frame, broken, torn)
                broken = piece is None
                if piece is not None:
                    yield piece
        self._whole = True

    def _packets(self) -> Iterator[Any]:
        """Those of the stream, as far as the container can be read."""
        packets = self._container.demux()
        ticks = {stream.index: float(stream.time_base or 0) for stream in self._container.streams}
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except av.FFmpegError:
                self._broken_off = True
                return
            if packet is None:
                return
            index = packet.stream_index
            if packet.pts is not None:
                self._end = max(self._end, (packet.pts + (packet.duration or 0)) * ticks[index])
            if index == self._stream.index:
                yield packet

    def _piece(self, frame: Any, after_damage: bool, torn: bool) -> Piece | None:
        """A frame's samples; None where they are damage."""
        rate = int(frame.sample_rate)
        if self.rate not in (0, rate):
            raise MediaError(f"{self._media.name} changes its sample rate on the way; convert it to one rate")
        _check_shape(self._media.name, rate, frame.layout.nb_channels)
        self.rate = rate
        samples = frame.to_ndarray()  # planar [channels, S], packed [1, S * channels]
        if not frame.format.is_planar:
            samples = samples.reshape(frame.samples, -1).T
        samples = scaled(samples)  # [channels, S]
        time = None if frame.time is None else frame.time + self._shift
        if torn or (not self.lossless and not peak(samples) < WILD):  # NaN is not less either
            self._lose(time, frame.samples / rate)
            return None
        if self._first is None:
            self._first = time or 0.0
        self._heard += frame.samples / rate
        return Piece(samples, time, after_damage)

    @property
    def _is_bare(self) -> bool:
        return self._container.format.name in _BARE

    def _lost(self, size: int, seconds: float) -> float:
        """Seconds that a packet stood for: damage hides where the next begins, and so their number."""
        if not self._is_bare or not self._read:
            return seconds
        longer = (round(size * self._num_packets / self._read) - 1) * seconds
        if longer <= 0:  # packets are not all of one size
            return seconds
        self._shift += longer
        return seconds + longer

    def _lose(self, time: float | None, seconds: float) -> None:
        time = self._heard + (self._first or 0.0) if time is None else time
        if self._damage and abs(sum(self._damage[-1]) - time) < 1e-3:
            self._damage[-1][1] += seconds
        else:
            self._damage.append([time, seconds])

    @property
    def is_damaged(self) -> bool:
        return bool(self._damage) or self._broken_off

    def losses(self, holes: float) -> Iterator[str]:
        """Sentences on what was damaged or is missing of what was read so far.

        holes: seconds in which there was nothing, by its stamps.
        """
        name = self._media.name
        if self._damage:
            lost, first = sum(seconds for _, seconds in self._damage), max(0.0, self._damage[0][0] - (self._first or 0.0))
            places = f" in {len(self._damage)} places, the first" if len(self._damage) > 1 else ""
            verb = "are" if places else "is"
            yield f"{name}: {lost:.2f} s{places} at {first:.1f} s could not be decoded and {verb} silent"
        if not self._whole:
            return
        stated, end = self._stated(holes)
        missing = missing_bytes(self._media)
        if stated - end > max(LOSSES, 0.05 * stated if self._is_bare else 0):
            yield f"{name} is damaged or cut short: it states {stated:.1f} s and {end:.1f} s are there"
        elif missing and not stated:
            yield f"{name} is cut short: {missing} bytes are missing"
        elif (seconds := self._heard * unstated_share(self._media)) > LOSSES:
            yield f"{name}: some {seconds:.1f} s of sound lie behind the {self._heard:.1f} s that it states, left out"
        elif self._broken_off:
            yield f"{name} cannot be read beyond {self._heard:.1f} s"

    def _stated(self, holes: float) -> tuple[float, float]:
        """Seconds that a container promises, and where what is there ends; zeros where it does not say."""
        kind, stream = self._container.format.name, self._stream
        end = self._heard + holes + sum(seconds for _, seconds in self._damage)
        match kind.partition(",")[0]:
            case "matroska" if self._container.duration:  # of all streams together
                return self._container.duration / 1e6, self._end
            case "flac" | "aiff" | "ogg" if stream.duration:
                return float(stream.duration * stream.time_base), end
            case "mov" if stream.duration and missing_bytes(self._media):
                return float(stream.duration * stream.time_base), end
            case "mp3" if stream.start_time:  # its length is a guess, unless the encoder's delay is stated with it
                return float(stream.duration * stream.time_base), end
        return 0.0, 0.0
