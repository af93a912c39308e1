"""One sound: a file, bytes, data URL or a wave in memory to float32 mono at a rate, within a budget.

FFmpeg (PyAV) decodes, soxr resamples. Errors as in `pictures`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from omni.encoders.containers import demuxed, known
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Media, Tell, check_whole, opened, tell_python
from omni.errors import MediaError, MediaLimitError

Wave: TypeAlias = npt.NDArray[np.float32]
AudioSource: TypeAlias = str | Path | bytes | tuple[npt.NDArray[Any], int]
QUALITY = "HQ"
"""Of soxr's resampling."""


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
    The wave of a pair is `[S]` or `[S, channels]`, the layout of `soundfile`; floats are taken as they are, integers
    divided by their range (int16 by 32768). What an encoder put before the sound is dropped, as FFmpeg does.
    origin: seconds on the container's clock at which sample 0 lies; a sound that begins later has silence before it, of
    one that begins sooner the beginning is left out. None: where the sound begins.
    start, end: seconds after the origin; what lies between them is returned, nothing where the sound is over by then.
    tell: is given a sentence for everything that was lost.
    Raises MediaError (no sound, no samples, NaN, damaged), MediaLimitError.
    """
    began = 0.0
    if isinstance(source, tuple):
        name = "the wave"
        wave, source_rate = _from_pair(source, budget)
    else:
        with opened(source, budget) as media:
            name = media.name
            check_whole(media)
            wave, source_rate, began = _decode_wave(media, budget)
    if len(wave) == 0:
        raise MediaError(f"{name} holds no samples; record it again")
    if not np.isfinite(wave).all():
        raise MediaError(f"{name} holds samples that are NaN or infinite; repair or drop them")
    if origin is not None:
        late = round((began - origin) * source_rate)
        wave = np.concatenate([np.zeros(max(0, late), np.float32), wave[max(0, -late) :]])
    first, last = (None if t is None else max(0, round(t * rate)) for t in (start, end))
    return _resample(wave, source_rate, rate)[first:last]


def _from_pair(source: tuple[Any, ...], budget: Budget) -> tuple[Wave, int]:
    if len(source) != 2 or not isinstance(source[0], np.ndarray) or not isinstance(source[1], int | np.integer):
        raise MediaError("a sound in memory is a pair (numpy wave, sample rate in Hz)")
    wave, rate = source[0], int(source[1])
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 1 <= wave.shape[1] <= 64):
        raise MediaError(f"the wave is {list(wave.shape)}; pass [S] or [S, channels] (transpose [channels, S])")
    if wave.dtype.kind not in "iuf" or (wave.dtype.kind == "u" and wave.dtype != np.uint8):
        raise MediaError(f"the wave is {wave.dtype}; pass floats, signed integers or uint8")
    check_rate(rate)
    check_length("the wave", len(wave), rate, budget)
    return _mono(wave[None] if wave.ndim == 1 else wave.T), rate


def check_rate(rate: int) -> None:
    """Raise MediaError where a sound has no such rate."""
    if not 1 <= rate <= 10_000_000:
        raise MediaError(f"{rate} Hz is no sample rate; give a number above 0")


def check_length(name: str, num_samples: int, rate: int, budget: Budget) -> None:
    """Raise MediaLimitError where a sound lasts longer than the budget allows."""
    if num_samples > budget.max_seconds * rate:
        raise MediaLimitError(f"{name} lasts over {budget.max_seconds:g} s, which is the budget; cut it")


def _mono(wave: npt.NDArray[Any]) -> Wave:
    """`[channels, S]` of any sample type to float32 `[S]`."""
    scaled: Wave = wave.astype(np.float32)  # integers round to 24 bits; powers of two then divide exactly
    if wave.dtype == np.uint8:
        scaled -= 128
        scaled /= 128
    elif wave.dtype.kind == "i":
        scaled /= -float(np.iinfo(wave.dtype).min)
    mean: Wave = np.mean(scaled, axis=0, dtype=np.float32)
    return mean


def _decode_wave(media: Media, budget: Budget) -> tuple[Wave, int, float]:
    with demuxed(media, budget) as container:
        if not container.streams.audio:
            raise MediaError(f"{media.name} has no sound track; pass it as a video without sound")
        stream = known(media, container.streams.audio[0])
        pieces: list[Wave] = []
        rate = num_samples = 0
        began = 0.0
        for frame in container.decode(stream):
            if rate not in (0, frame.sample_rate):
                raise MediaError(f"{media.name} changes its sample rate on the way; convert it to one rate")
            if not pieces and frame.time is not None:
                began = frame.time
            rate = int(frame.sample_rate)
            num_samples += frame.samples
            check_length(media.name, num_samples, rate, budget)
            samples = frame.to_ndarray()  # planar [channels, S], packed [1, S * channels]
            if not frame.format.is_planar:
                samples = samples.reshape(frame.samples, -1).T
            pieces.append(_mono(samples))
        # FLAC and AIFF state their length, as does an MP3 of which the encoder's delay is known
        states = container.format.name in ("flac", "aiff") or (container.format.name == "mp3" and stream.start_time)
        if states and stream.duration and num_samples < float(stream.duration * stream.time_base) * rate - 1:
            raise MediaError(
                f"{media.name} is cut short: {num_samples} samples are there and it states more; fetch it again"
            )
        return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)), rate, began


def _resample(wave: Wave, source_rate: int, rate: int) -> Wave:
    """soxr HQ, as `librosa.load` has it."""
    if source_rate == rate:
        return wave
    num_samples = resampled_len(len(wave), source_rate, rate)
    out: Wave = soxr.resample(wave, source_rate, rate, quality=QUALITY)
    return np.pad(out[:num_samples], (0, max(0, num_samples - len(out))))


def resampled_len(num_samples: int, source_rate: int, rate: int) -> int:
    """Samples that so many become at another rate."""
    return math.ceil(num_samples * (float(rate) / source_rate))
