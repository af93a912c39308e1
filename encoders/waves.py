"""One sound: a file, bytes, data URL or a wave in memory to float32 mono at a rate, within a budget.

FFmpeg (PyAV) decodes, soxr resamples, both piece by piece: kept is only what is returned. Errors as in `pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from omni.encoders.containers import demuxed, known, sound_streams
from omni.encoders.mixing import mixed
from omni.encoders.sound_track import JUMPY, LOSSES, SoundTrack, peak, scaled
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Media, Tell, opened, tell_python
from omni.encoders.timeline import Piece, Samples, Timeline
from omni.errors import MediaError, MediaLimitError

Wave: TypeAlias = npt.NDArray[np.float32]
AudioSource: TypeAlias = str | Path | bytes | tuple[npt.NDArray[Any], int]
QUALITY = "HQ"
"""Of soxr's resampling."""
HAIR = 1.25
"""Floats may go so far beyond full scale: what was loud does after resampling, or lossy coding."""


def read_audio(
    source: AudioSource,
    rate: int = 16000,
    budget: Budget = DEFAULT_BUDGET,
    *,
    origin: float | None = None,
    start: float | None = None,
    end: float | None = None,
    tell: Tell = tell_python,
) -> Wave:
    """One sound as float32 `[S]`, mono at `rate` Hz: channels averaged, then resampled by soxr HQ.

    source: a path, `file://` URL, data URL or the bytes of a sound file or of a video with sound, or `(wave, rate)`.
    The wave of a pair is `[S]` or `[S, channels]`, the layout of `soundfile`; floats lie within -1 and 1 and are taken as
    they are, integers are divided by their range (int16 by 32768).
    Of several tracks the one is heard that players would take, among those that can be decoded. What an encoder put before
    the sound is dropped, as FFmpeg does; holes between the container's time stamps are silent (`Timeline`); what cannot be
    decoded is silent too, and told. Channels that cancel each other are not averaged: see `mixed`.
    origin: seconds on the container's clock at which sample 0 lies; a sound that begins later has silence before it, of
    one that begins sooner the beginning is left out. None: where the sound begins.
    start, end: seconds after the origin; what lies between them is returned, nothing where the sound is over by then.
    tell: is given a sentence for everything that was lost.
    Raises MediaError (no sound, no samples, NaN, floats far beyond 1, nothing but damage), MediaLimitError.
    """
    first, last = (None if t is None else max(0, round(t * rate)) for t in (start, end))
    if isinstance(source, tuple):
        wave, source_rate = _from_pair(source, budget)
        return _heard("the wave", _slices(wave, source_rate), source_rate, rate, first, last)
    with opened(source, budget) as media:
        heard, losses = _decoded(media, rate, budget, origin, first, last)
    for sentence in losses:
        tell(sentence)
    return heard


def _from_pair(source: tuple[Any, ...], budget: Budget) -> tuple[npt.NDArray[Any], int]:
    """The wave of a pair as `[channels, S]`, and its rate."""
    if len(source) != 2 or not isinstance(source[0], np.ndarray) or not isinstance(source[1], int | np.integer):
        raise MediaError("a sound in memory is a pair (numpy wave, sample rate in Hz)")
    wave, rate = source[0], int(source[1])
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 1 <= wave.shape[1] <= 64):
        raise MediaError(f"the wave is {list(wave.shape)}; pass [S] or [S, channels] (transpose [channels, S])")
    if wave.dtype.kind not in "iuf" or (wave.dtype.kind == "u" and wave.dtype != np.uint8):
        raise MediaError(f"the wave is {wave.dtype}; pass floats, signed integers or uint8")
    check_rate(rate)
    check_length("the wave", len(wave), rate, budget)
    return wave[None] if wave.ndim == 1 else wave.T, rate


def check_rate(rate: int) -> None:
    """Raise MediaError where a sound has no such rate."""
    if not 1 <= rate <= 10_000_000:
        raise MediaError(f"{rate} Hz is no sample rate; give a number above 0")


def check_length(name: str, num_samples: int, rate: int, budget: Budget) -> None:
    """Raise MediaLimitError where a sound lasts longer than the budget allows."""
    if num_samples > budget.max_seconds * rate:
        raise MediaLimitError(f"{name} lasts over {budget.max_seconds:g} s, which is the budget; cut it")


def _slices(wave: npt.NDArray[Any], rate: int) -> Iterator[Samples]:
    """`[channels, S]` of any sample type a second at a time."""
    for at in range(0, wave.shape[1], rate):
        samples = scaled(wave[:, at : at + rate])
        check_values("the wave", samples)
        yield samples


def check_values(name: str, samples: Samples) -> None:
    """Raise MediaError for what no sound is."""
    most = peak(samples)
    if not math.isfinite(most):
        raise MediaError(f"{name} holds samples that are NaN or infinite; repair or drop them")
    if most > HAIR:
        how = "its peak" if most < 8 else "32768 if they were 16 bit integers, or pass integers"
        raise MediaError(f"{name} holds floats up to {most:g} and a sound lies within -1 and 1; divide them by {how}")


def _decoded(
    media: Media, rate: int, budget: Budget, origin: float | None, first: int | None, last: int | None
) -> tuple[Wave, list[str]]:
    """The first track of a container of which something can be decoded, and sentences on what was lost of it."""
    number, damaged = 0, False
    while True:
        with demuxed(media, budget if last is None else None) as container:
            if not container.streams.audio:
                raise MediaError(f"{media.name} has no sound track; pass it as a video without sound")
            streams = sound_streams(container) or [known(media, container.streams.audio[0])]
            track = SoundTrack(media, container, streams[number])
            pieces = track.pieces()
            if piece := next(pieces, None):
                timeline = Timeline(track.rate, origin, jumps=container.format.name in JUMPY)
                placed = _checked(media.name, timeline, _chained(piece, pieces), track, budget)
                wave = _heard(media.name, placed, track.rate, rate, first, last)
                return wave, [*track.losses(timeline.holes_seconds), *_odd(media.name, timeline, container)]
            number, damaged = number + 1, damaged or track.is_damaged
            if number == len(streams):
                what = "is damaged: nothing of its sound can be decoded" if damaged else "holds no samples"
                raise MediaError(f"{media.name} {what}; record or fetch it again")


def _chained(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield from rest


def _checked(name: str, timeline: Timeline, pieces: Iterable[Piece], track: SoundTrack, budget: Budget) -> Iterator[Samples]:
    num_samples = 0
    for samples in timeline.place(pieces):
        if track.lossless:
            check_values(name, samples)
        num_samples += samples.shape[1]
        check_length(name, num_samples, timeline.rate, budget)
        yield samples


def _odd(name: str, timeline: Timeline, container: Any) -> Iterator[str]:
    """What the stamps of a track tell of losses."""
    if timeline.holes and container.format.name in ("flac", "ogg"):  # which have no holes, unless something was lost
        yield f"{name}: {timeline.holes_seconds:.2f} s from {timeline.holes[0][0]:.1f} s on are missing and silent"
    if timeline.left_out > LOSSES:
        yield f"{name}: {timeline.left_out:.2f} s of sound lie over other sound and are left out"


def _heard(name: str, pieces: Iterable[Samples], source_rate: int, rate: int, first: int | None, last: int | None) -> Wave:
    """Pieces mixed and resampled, and of them the samples from `first` to `last`."""
    kept, at = bytearray(), 0  # which grows in place
    for wave in _resampled(mixed(pieces, source_rate), source_rate, rate):
        kept += wave[max(0, (first or 0) - at) : None if last is None else max(0, last - at)].tobytes()
        at += len(wave)
        if last is not None and at >= last:
            break
    if at == 0:
        raise MediaError(f"{name} holds no samples; record it again")
    return np.frombuffer(kept, np.float32)


def _resampled(pieces: Iterable[Wave], source_rate: int, rate: int) -> Iterator[Wave]:
    """soxr HQ, as `librosa.load` has it."""
    if source_rate == rate:
        yield from pieces
        return
    resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality=QUALITY)
    num_in = num_out = 0
    for piece in pieces:
        out: Wave = resampler.resample_chunk(piece)
        num_in, num_out = num_in + len(piece), num_out + len(out)
        yield out
    left = resampled_len(num_in, source_rate, rate) - num_out
    out = resampler.resample_chunk(np.empty(0, np.float32), last=True)[: max(0, left)]
    yield np.pad(out, (0, max(0, left - len(out))))


def resampled_len(num_samples: int, source_rate: int, rate: int) -> int:
    """Samples that so many become at another rate."""
    return math.ceil(num_samples * (float(rate) / source_rate))
