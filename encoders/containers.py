"""Containers of sound and moving pictures, opened by FFmpeg (PyAV) so that its errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from omni.encoders.sources import Budget, Media, out_of_memory
from omni.errors import MediaError, MediaLimitError

# playlists and their like could make FFmpeg open other files: only these demuxers are allowed
_DEMUXERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,wav,w64,aiff,caf,flac,mp3,aac,amr,au"


@contextmanager
def demuxed(media: Media, budget: Budget | None) -> Iterator[Any]:
    """The open container; every FFmpeg error inside becomes a MediaError.

    budget: how long it may state to last; None where what it states does not matter.
    """
    media.file.seek(0)
    try:
        # tags may be in any encoding and are not needed
        with av.open(media.file, options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore") as container:
            seconds = (container.duration or 0) / 1e6
            if budget and seconds > budget.max_seconds:
                raise MediaLimitError(
                    f"{media.name} lasts {seconds:.1f} s and the budget is {budget.max_seconds:g} s; cut it"
                )
            yield container
    except MemoryError as e:  # FFmpeg's own too, which is an FFmpegError
        raise out_of_memory(media.name) from e
    except (av.FFmpegError, OSError, ValueError, KeyError, OverflowError) as e:
        raise MediaError(
            f"{media.name} cannot be decoded ({type(e).__name__}): it is damaged, cut short or of an unknown kind; "
            "convert it again, for example to WAV or MP4"
        ) from e


def known(media: Media, stream: Any) -> Any:
    if stream.codec_context is None:
        raise MediaError(f"{media.name} is coded in a way that FFmpeg does not know; convert it, for example to WAV or MP4")
    return stream


def sound_streams(container: Any) -> list[Any]:
    """The streams of sound that FFmpeg can decode, first those that players take first."""
    known = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return sorted(known, key=lambda stream: not stream.disposition & av.stream.Disposition.default)
