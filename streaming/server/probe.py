"""Decodes one medium after another, keeping nothing, in a process of its own that may take only so much.

`python -m omni.streaming.server.probe MEMORY` reads requests from its standard input, a line of JSON and then the medium's
bytes, and answers each with a line of JSON on its standard output: `[status, sentence]`, or null where all is well. A medium
that breaks its decoder, or takes more than it may, ends this process and nothing else. Only FFmpeg and Pillow are imported.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import resource
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import av

# Pillow imports these when it meets such a file, and by then it could not
from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # no file can be opened later

INVALID, TOO_LARGE = 400, 413
PICTURES = ("PNG", "JPEG", "WEBP")
DEMUXERS = {"image": (), "audio": ("wav", "mp3", "ogg", "flac", "mov", "matroska"), "video": ("mov", "matroska")}
CODECS = {
    "audio": {"aac", "alac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis"},
    "video": {"av1", "libdav1d", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9"},
}
KINDS = {
    "image": "picture (PNG, JPEG or WEBP)",
    "audio": "sound (WAV, MP3, OGG, FLAC, M4A, MP4 or WEBM)",
    "video": "video (MP4, MOV, WEBM or MKV)",
}


@dataclass(frozen=True)
class Task:
    """What to decode, and how large it may be.

    Attributes:
        kind: "image", "audio" or "video".
        size: bytes that follow.
        pixels, frames, seconds: as in `omni.Budget`.
        cpu_seconds: in which it must be decoded.
    """

    kind: str
    size: int
    pixels: int
    frames: int
    seconds: float
    cpu_seconds: float

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Refused(Exception):
    """A status and a sentence for the client."""


def container_of(data: bytes) -> str | None:
    """The format that the first bytes of a medium show, as Pillow or FFmpeg's demuxers call it; None for all others."""
    match data[:4]:
        case b"RIFF":
            return {b"WAVE": "wav", b"WEBP": "WEBP"}.get(data[8:12])
        case b"\x89PNG":
            return "PNG"
        case b"OggS":
            return "ogg"
        case b"fLaC":
            return "flac"
        case b"\x1aE\xdf\xa3":
            return "matroska"
    if data[4:8] == b"ftyp":
        return "mov"
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    # of MPEG's frames only layers I to III: those of layer 0 are bare AAC
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 6):
        return "mp3"
    return None


def check(task: Task, data: bytes) -> None:
    """Decode all of a medium; Refused where it is not one, or larger than it may be."""
    found = container_of(data)
    if found not in (PICTURES if task.kind == "image" else DEMUXERS[task.kind]):
        raise Refused(INVALID, f"is no {KINDS[task.kind]}; convert it to one of these")
    if task.kind == "image":
        _check_picture(task, data, found)
    else:
        _check_streams(task, data, found)


def _check_size(task: Task, width: int, height: int) -> None:
    if width * height > task.pixels:
        raise Refused(TOO_LARGE, f"has {width} x {height} pixels and {task.pixels} are allowed; shrink it first")


def _check_picture(task: Task, data: bytes, found: str) -> None:
    Image.MAX_IMAGE_PIXELS = task.pixels
    try:
        with Image.open(io.BytesIO(data), formats=[found]) as image:
            _check_size(task, image.width, image.height)
            if found != "JPEG" and getattr(image, "is_animated", False):  # a phone's JPEG may hold previews besides
                raise Refused(INVALID, "is an animation; send one picture, or a video")
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise Refused(TOO_LARGE, f"has more than the {task.pixels} pixels that are allowed; shrink it first") from e


def _check_streams(task: Task, data: bytes, found: str) -> None:
    # FFmpeg guesses on its own, as the runtime's reader will, and has to come to what the first bytes show
    options = {"format_whitelist": "matroska,webm" if found == "matroska" else found}
    with av.open(io.BytesIO(data), options=options, metadata_errors="ignore") as container:
        _check_seconds(task, (container.duration or 0) / 1e6)
        for stream in container.streams:
            _check_codec(stream)
        sounds = [s for s in container.streams if s.type == "audio"]
        cover = av.stream.Disposition.attached_pic
        pictures = [s for s in container.streams if s.type == "video" and not s.disposition & cover]
        if not (pictures if task.kind == "video" else sounds):
            raise Refused(INVALID, "has no moving pictures" if task.kind == "video" else "has no sound")
        _decode(task, container, [*(pictures[:1] if task.kind == "video" else []), *sounds[:1]])


def _check_codec(stream: Any) -> None:
    if stream.type in CODECS:
        name = stream.codec_context.name if stream.codec_context else ""
        if name not in CODECS[stream.type] and not (stream.type == "audio" and name.startswith("pcm_")):
            raise Refused(
                INVALID, "is coded in a way that is not accepted; convert it, for example to WAV or to MP4 with H.264"
            )


def _check_seconds(task: Task, seconds: float) -> None:
    if seconds > task.seconds:
        raise Refused(TOO_LARGE, f"lasts longer than the {task.seconds:g} s that are allowed; cut it")


def _check_frames(task: Task, count: int) -> None:
    if count > task.frames:
        raise Refused(TOO_LARGE, f"has more than the {task.frames} frames that are allowed; cut it")


def _decode(task: Task, container: Any, streams: list[Any]) -> None:
    for stream in streams:
        stream.codec_context.thread_count = 1  # the time is counted for all threads together
        if stream.type == "video":
            _check_size(task, stream.width, stream.height)
            _check_frames(task, stream.frames)
            # before a frame larger than its header states is allocated; FFmpeg counts the padding of blocks too
            stream.codec_context.options = {"max_pixels": str(2 * task.pixels + (1 << 16))}
    num_frames, heard = 0, 0.0
    for frame in container.decode(*streams):
        if isinstance(frame, av.VideoFrame):
            num_frames += 1
            _check_frames(task, num_frames)
            _check_size(task, frame.width, frame.height)
        else:
            heard += frame.samples / frame.sample_rate
            _check_seconds(task, heard)
    if not (num_frames if streams[0].type == "video" else heard):
        raise Refused(INVALID, "holds nothing that can be decoded; record it again")


def answer(task: Task, data: bytes) -> tuple[int, str] | None:
    """What is wrong with a medium, or None."""
    try:
        check(task, data)
    except Refused as e:
        status, sentence = e.args
        return status, sentence
    except MemoryError:
        return TOO_LARGE, "takes more memory to decode than is allowed; shrink or cut it"
    except Exception:  # what the decoders say of it may hold addresses and file names
        return INVALID, "cannot be decoded: it is damaged or cut short; save it again"
    return None


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    while line := requests.readline():
        task = Task(**json.loads(line))
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + task.cpu_seconds) + 1)
        found = answer(task, requests.read(task.size))
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


def _import_all() -> None:
    """What the bindings import when they meet a stream of some kind: by then they could not."""
    Image.preinit()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main() -> None:
    """Give up what a decoder needs not, and serve."""
    os.nice(10)  # speech that is being made comes first
    _import_all()
    av.logging.set_level(None)
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    _limit(resource.RLIMIT_AS, int(sys.argv[1]))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _limit(resource.RLIMIT_NOFILE, 3)  # no file and no socket can be opened from here on
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
