"""One clip: a video or a list of pictures to frames, sampled as published, within a budget. FFmpeg decodes.

Errors as in `pictures`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omni.encoders.config import FPS
from omni.encoders.containers import demuxed, known
from omni.encoders.pictures import ImageSource, check_size, read_image
from omni.encoders.sources import DEFAULT_BUDGET, Budget, Media, check_whole, opened
from omni.errors import MediaError, MediaLimitError, OptionError

VideoSource: TypeAlias = str | Path | bytes | Sequence[ImageSource]


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
    return known(media, streams[0])


def _check_frames(media: Media, count: int, budget: Budget) -> None:
    if count > budget.max_frames:
        raise MediaLimitError(f"{media.name} has {count} frames or more and the budget is {budget.max_frames}; cut it")


def _read_track(media: Media, budget: Budget) -> _Track:
    """What the container says; where it does not say how many frames, the number of packets."""
    with demuxed(media, budget) as container:
        stream = _pictures(media, container)
        if stream.width and stream.height:
            check_size(media.name, stream.width, stream.height, budget)
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
    with demuxed(media, budget) as container:
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
                    check_size(media.name, frame.width, frame.height, budget)
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
