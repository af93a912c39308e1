"""File, bytes, data URL or Python object to pictures, frames and waves, within a budget.

Whatever is wrong with the input leaves here as one `MediaError` (`MediaLimitError` where the budget is exceeded) whose
message names the input and says what to do. FFmpeg (PyAV) decodes sound and video, Pillow pictures, soxr resamples.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import soxr
import torch
from PIL import Image, ImageOps
from torch import Tensor

from omni.encoders.config import FPS
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Media, check_whole, opened
from omni.errors import MediaError, MediaLimitError, OptionError

__all__ = ["DEFAULT_BUDGET", "Budget", "Clip", "frame_indices", "read_audio", "read_image", "read_video"]

Wave: TypeAlias = npt.NDArray[np.float32]
File: TypeAlias = str | Path | bytes
ImageSource: TypeAlias = File | Image.Image | npt.NDArray[np.uint8]
AudioSource: TypeAlias = File | tuple[npt.NDArray[Any], int]
VideoSource: TypeAlias = File | Sequence[ImageSource]
QUALITY = "HQ"
"""Of soxr's resampling."""


@dataclass(frozen=True)
class Clip:
    """Frames sampled from a video.

    Attributes:
        frames: uint8 RGB `[n, 3, H, W]`, upright.
        times: seconds of each frame after the video's first.
        fps: frames kept per second of video.
        has_audio: whether the video has a sound track.
    """

    frames: Tensor
    times: tuple[float, ...]
    fps: float
    has_audio: bool


# EPS and the like run programs, and others are no photographs: only these are tried
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# what Pillow's readers raise for damaged data; warnings are exceptions where the caller's filters say so
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    NotImplementedError, struct.error, zlib.error, UserWarning,
)  # fmt: skip


def read_image(source: ImageSource, budget: Budget = DEFAULT_BUDGET) -> Image.Image:
    """One picture, upright (EXIF orientation applied), RGB, transparency on white.

    source: a path, `file://` URL, data URL, the bytes of a file, a PIL image, or a uint8 array `[H, W, 3]`.
    Of an animation the first picture is taken; 16 bit greys keep their high byte. Raises MediaError, MediaLimitError.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise MediaError(f"the array is {source.dtype} {source.shape}; a picture is uint8 [H, W, 3]")
        _check_picture("the array", source.shape[1], source.shape[0], budget)
        return Image.fromarray(np.ascontiguousarray(source))
    if isinstance(source, Image.Image):
        return _to_rgb("the picture", source, budget)
    with opened(source, budget) as media:
        try:
            image = Image.open(media.file, formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
            raise MediaLimitError(f"{media.name} has too many pixels: {e}; shrink it first") from e
        except _PILLOW_ERRORS as e:
            kinds = ", ".join(_FORMATS)
            raise MediaError(
                f"{media.name} is no picture that can be read ({kinds}): its header is not one; save it as PNG or JPEG"
            ) from e
        return _to_rgb(media.name, image, budget)


def _check_picture(name: str, width: int, height: int, budget: Budget) -> None:
    if width <= 0 or height <= 0:
        raise MediaError(f"{name} is {width} x {height} pixels: nothing to see; send a picture of at least one pixel")
    if width * height > budget.max_pixels:
        raise MediaLimitError(f"{name} is {width} x {height} pixels and the budget is {budget.max_pixels}; shrink it first")


def _to_rgb(name: str, image: Image.Image, budget: Budget) -> Image.Image:
    _check_picture(name, image.width, image.height, budget)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = _high_byte(name, image)
        if image.mode == "F":
            raise MediaError(f"{name} holds floats of unknown range; convert it to 8 bits first")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.getchannel("A"))
            return white
        return image.convert("RGB")
    except _PILLOW_ERRORS as e:
        raise MediaError(f"{name} is damaged or cut short: {e}; save it again") from e


def _high_byte(name: str, image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8 as Pillow does for 16 bit colour; its own conversion of grey saturates instead."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise MediaError(f"{name} holds integers beyond 16 bits; convert it to 8 bits first")
    return Image.fromarray((values >> 8).astype(np.uint8))


# playlists and their like could make FFmpeg open other files: only these demuxers are allowed
_DEMUXERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,wav,w64,aiff,caf,flac,mp3,aac,amr,au"


@contextmanager
def _demuxed(media: Media, budget: Budget) -> Iterator[Any]:
    """The open container; every FFmpeg error inside becomes a MediaError."""
    media.file.seek(0)
    try:
        # tags may be in any encoding and are not needed
        with av.open(media.file, options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore") as container:
            seconds = (container.duration or 0) / 1e6
            if seconds > budget.max_seconds:
                raise MediaLimitError(
                    f"{media.name} lasts {seconds:.1f} s and the budget is {budget.max_seconds:g} s; cut it"
                )
            yield container
    except (av.FFmpegError, OSError, ValueError, KeyError, OverflowError) as e:
        raise MediaError(
            f"{media.name} cannot be decoded ({type(e).__name__}): it is damaged, cut short or of an unknown kind; "
            "convert it again, for example to WAV or MP4"
        ) from e


def _known(media: Media, stream: Any) -> Any:
    if stream.codec_context is None:
        raise MediaError(f"{media.name} is coded in a way that FFmpeg does not know; convert it, for example to WAV or MP4")
    return stream


def read_audio(source: AudioSource, rate: int = 16000, budget: Budget = DEFAULT_BUDGET) -> Wave:
    """One sound as float32 `[S]`, mono at `rate` Hz: channels averaged, then resampled by soxr HQ.

    source: a path, `file://` URL, data URL or the bytes of a sound file or of a video with sound, or `(wave, rate)`.
    The wave of a pair is `[S]` or `[S, channels]`, the layout of `soundfile`; floats are taken as they are, integers
    divided by their range (int16 by 32768). What an encoder put before the sound is dropped, as FFmpeg does.
    Raises MediaError (no sound, no samples, NaN, damaged), MediaLimitError.
    """
    if isinstance(source, tuple):
        name = "the wave"
        wave, source_rate = _from_pair(source, budget)
    else:
        with opened(source, budget) as media:
            name = media.name
            check_whole(media)
            wave, source_rate = _decode_wave(media, budget)
    if len(wave) == 0:
        raise MediaError(f"{name} holds no samples; record it again")
    if not np.isfinite(wave).all():
        raise MediaError(f"{name} holds samples that are NaN or infinite; repair or drop them")
    return _resample(wave, source_rate, rate)


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


def _decode_wave(media: Media, budget: Budget) -> tuple[Wave, int]:
    with _demuxed(media, budget) as container:
        if not container.streams.audio:
            raise MediaError(f"{media.name} has no sound track; pass it as a video without sound")
        stream = _known(media, container.streams.audio[0])
        pieces: list[Wave] = []
        rate = num_samples = 0
        for frame in container.decode(stream):
            if rate not in (0, frame.sample_rate):
                raise MediaError(f"{media.name} changes its sample rate on the way; convert it to one rate")
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
        return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)), rate


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


def frame_indices(
    total: int,
    video_fps: float,
    *,
    fps: float = FPS,
    num_frames: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """Which of `total` frames the model is shown: an even number, spread evenly from the first to the last.

    fps, min_frames and max_frames decide how many; num_frames, if given, decides instead (rounded to even, at most all).
    start, end: seconds; only frames between them are shown. Raises MediaError where fewer than two frames would be left.
    Source: qwen_omni_utils, `smart_nframes` and the frame range of its readers.
    """
    first, last = 0, total - 1
    if start is not None:
        first = math.ceil(min(max(start, 0.0), total / video_fps) * video_fps)
    if end is not None:
        last = min(math.floor(min(max(end, 0.0), total / video_fps) * video_fps), last)
    total = last - first + 1
    if num_frames is not None:
        count = min(2 * round(num_frames / 2), total)
    else:
        most = 2 * (min(max_frames, total) // 2)
        count = 2 * math.floor(min(max(total / video_fps * fps, 2 * math.ceil(min_frames / 2)), most, total) / 2)
    if count < 2:
        raise MediaError(
            f"{max(total, 0)} frames between start and end, of which {max(count, 0)} would be shown; at least 2 are needed"
        )
    return [int(i) for i in torch.linspace(first, last, count).round().long()]


def read_video(
    source: VideoSource,
    *,
    fps: float = FPS,
    num_frames: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    start: float | None = None,
    end: float | None = None,
    budget: Budget = DEFAULT_BUDGET,
) -> Clip:
    """Frames of a video file, sampled as `frame_indices` says, or a list of frames taken whole.

    source: a path, `file://` URL, data URL or the bytes of a video; or pictures of one size in order, `fps` apart, to
    which the last is added once more if their number is odd.
    The decode is streamed: only frames that are kept stay in memory. Raises MediaError, MediaLimitError, OptionError.
    """
    if not fps > 0 or min_frames < 1 or max_frames < 2 or (num_frames is not None and num_frames < 2):
        raise OptionError(
            f"fps {fps}, min_frames {min_frames}, max_frames {max_frames}, num_frames {num_frames}: not positive"
        )
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return _from_pictures(source, fps, budget)
    with opened(source, budget) as media:
        check_whole(media)
        track = _read_track(media, budget)
        for _ in range(2):
            try:
                wanted = frame_indices(
                    track.total, track.fps, fps=fps, num_frames=num_frames, min_frames=min_frames, max_frames=max_frames,
                    start=start, end=end,
                )  # fmt: skip
            except MediaError as e:
                raise MediaError(f"{media.name}: {e}") from e
            frames, times, num_decoded = _decode_frames(media, wanted, track, budget)
            if num_decoded == track.total or (wanted[-1] < track.total - 1 and len(times) == len(wanted)):
                break
            track = replace(track, total=num_decoded)  # the container was wrong: once more with the true number
        assert frames is not None
        assert len(times) == len(wanted)
        kept_fps = len(wanted) / (wanted[-1] - wanted[0] + 1) * track.fps
        return Clip(frames, tuple(times), kept_fps, track.has_audio)


def _from_pictures(source: Sequence[ImageSource], fps: float, budget: Budget) -> Clip:
    if not source:
        raise MediaError("the list of frames is empty; pass at least one")
    if len(source) > budget.max_frames:
        raise MediaLimitError(f"{len(source)} frames and the budget is {budget.max_frames}; pass fewer")
    count = len(source) + len(source) % 2
    frames = torch.empty(0)
    for i, item in enumerate(source):
        image = read_image(item, budget)
        if i == 0:
            frames = _room("the list of frames", count, image.height, image.width, budget)
        if (image.height, image.width) != frames.shape[2:]:
            size = f"{frames.shape[3]} x {frames.shape[2]}"
            raise MediaError(f"frame {i} is {image.width} x {image.height} and the first is {size}; make them one size")
        frames[i] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    frames[len(source) :] = frames[len(source) - 1]
    return Clip(frames, tuple(i / fps for i in range(count)), fps, has_audio=False)


def _room(name: str, count: int, height: int, width: int, budget: Budget) -> Tensor:
    size = count * 3 * height * width
    if size > budget.max_clip_bytes:
        raise MediaLimitError(
            f"{name}: {count} frames of {width} x {height} are {size} bytes and the budget is {budget.max_clip_bytes}; "
            "show fewer frames or shrink them"
        )
    return torch.empty(count, 3, height, width, dtype=torch.uint8)


@dataclass(frozen=True)
class _Track:
    total: int
    fps: float
    has_audio: bool


def _pictures(media: Media, container: Any) -> Any:
    """The first stream of moving pictures; the cover of a song is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise MediaError(f"{media.name} has no moving pictures; pass it as a sound")
    return _known(media, streams[0])


def _check_frames(media: Media, count: int, budget: Budget) -> None:
    if count > budget.max_frames:
        raise MediaLimitError(f"{media.name} has {count} frames or more and the budget is {budget.max_frames}; cut it")


def _read_track(media: Media, budget: Budget) -> _Track:
    """What the container says; where it does not say how many frames, the number of packets."""
    with _demuxed(media, budget) as container:
        stream = _pictures(media, container)
        if stream.width and stream.height:
            _check_picture(media.name, stream.width, stream.height, budget)
        total, rate = stream.frames, stream.average_rate or stream.guessed_rate
        _check_frames(media, total, budget)
        if total == 0:
            for packet in container.demux(stream):
                total += packet.size > 0
                _check_frames(media, total, budget)
        if not rate:
            raise MediaError(f"{media.name} does not say how many frames a second it has; convert it to MP4")
        return _Track(total, float(rate), bool(container.streams.audio))


def _decode_frames(media: Media, wanted: list[int], track: _Track, budget: Budget) -> tuple[Tensor | None, list[float], int]:
    """The frames `wanted` (ascending) `[n, 3, H, W]`, their times, and how many frames were decoded.

    Decodes to the end of the video, to count, unless only a part of it is wanted.
    """
    frames: Tensor | None = None
    times: list[float] = []
    count, first = 0, 0.0
    with _demuxed(media, budget) as container:
        stream = _pictures(media, container)
        stream.thread_type = "AUTO"
        # before a frame larger than its header states is allocated; FFmpeg counts the padding of blocks too
        stream.codec_context.options = {"max_pixels": str(2 * budget.max_pixels + (1 << 16))}
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise MediaError(f"{media.name} is damaged at frame {count}; convert it again")
            time = frame.time if frame.time is not None else count / track.fps
            first = time if count == 0 else first
            if len(times) < len(wanted) and wanted[len(times)] == count:
                picture = _upright(frame)
                if frames is None:
                    _check_picture(media.name, frame.width, frame.height, budget)
                    frames = _room(media.name, len(wanted), picture.shape[0], picture.shape[1], budget)
                if picture.shape[:2] != frames.shape[2:]:
                    raise MediaError(f"{media.name} changes its size at frame {count}; convert it to one size")
                frames[len(times)] = torch.from_numpy(picture).permute(2, 0, 1)
                times.append(time - first)
            count += 1
            _check_frames(media, count, budget)
            if len(times) == len(wanted) and wanted[-1] < track.total - 1:
                return frames, times, count
        # an MP4 lists its frames
        promised = sum(not e.is_discard for e in stream.index_entries) if "mp4" in container.format.name else 0
    # leading frames of a cut stream may be undecodable; more than that is damage
    if count < 0.9 * promised:
        raise MediaError(f"{media.name} is damaged: of {promised} frames {count} could be decoded; convert it again")
    return frames, times, count


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    """The frame as RGB `[H, W, 3]`, turned as the display matrix of its file says."""
    picture: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = struct.unpack("5i", bytes(matrix)[:20])  # pixel (x, y) is shown at (a x + c y, b x + d y)
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
