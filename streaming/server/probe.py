"""Decodes one medium after another, keeping nothing, in a process of its own that may take only so much.

`python -m omni.streaming.server.probe MEMORY` reads requests from its standard input, a line of JSON and then the medium's
bytes, and answers each with a line of JSON on its standard output: an `Answer`. A medium that breaks its decoder, or takes
more than it may, ends this process and nothing else. The runtime's own readers decode, which need no torch, so that what is
accepted here is what they can read, and what is lost is said in their words.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import av

# Pillow imports these when it meets such a file, and by then it could not
from PIL import (  # noqa: F401
    AvifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from omni.encoders.containers import sound_streams
from omni.encoders.pictures import FORMATS, HEIF_BRANDS, read_image
from omni.encoders.sources import Budget, Tell
from omni.encoders.waves import read_audio
from omni.errors import MediaError, MediaLimitError

INVALID, TOO_LARGE = 400, 413
MOST_SENTENCES = 20
"""Told of one medium."""
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
DEMUXERS = {
    "image": (),
    "audio": ("wav", "w64", "aiff", "caf", "au", "mp3", "aac", "amr", "ogg", "flac", "mov", "matroska"),
    "video": ("mov", "matroska"),
}
CODECS = {
    "audio": {
        "aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "mp2", "mp2float", "mp3", "mp3float", "opus", "libopus",
        "vorbis", "libvorbis", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "gsm_ms",
    },
    "video": {"av1", "libdav1d", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9"},
}  # fmt: skip
KINDS = {
    "image": "picture (GIF, BMP, TIFF, AVIF, PNG, JPEG or WEBP)",
    "audio": "sound (WAV, MP3, OGG, FLAC, AAC, AMR, AIFF, CAF, M4A, MP4 or WEBM)",
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

    @property
    def budget(self) -> Budget:
        return Budget(max_pixels=self.pixels, max_frames=self.frames, max_seconds=self.seconds)


@dataclass(frozen=True)
class Answer:
    """Attributes:
    refused: a status and a sentence; None where the medium was decoded.
    told: what was lost of it, a sentence each.
    """

    refused: tuple[int, str] | None
    told: tuple[str, ...]

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Answer:
        told = json.loads(line)
        return cls(tuple(told["refused"]) if told["refused"] else None, tuple(told["told"]))


class Refused(Exception):
    """A status and a sentence for the client."""


def container_of(data: bytes) -> str | None:
    """The format that the first bytes of a medium show, as Pillow or FFmpeg's demuxers call it; None for all others."""
    if data[4:8] == b"ftyp":
        return _brand(data)
    for start, name in _STARTS.items():
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF":
        return {b"WAVE": "wav", b"WEBP": "WEBP"}.get(data[8:12])
    if data[:4] in (b"RF64", b"BW64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if data[:3] == b"ID3":
        return "mp3"
    if len(data) > 1 and data[0] == 0xFF:  # of MPEG's frames those of layer 0 are bare AAC
        if data[1] & 0xF6 == 0xF0:
            return "aac"
        if data[1] & 0xE0 == 0xE0 and data[1] & 6:
            return "mp3"
    return None


_STARTS = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"OggS": "ogg", b"fLaC": "flac", b"\x1aE\xdf\xa3": "matroska", b"caff": "caf", b"riff.\x91\xcf\x11": "w64",
    b".snd": "au", b"#!AMR": "amr",
}  # fmt: skip


def _brand(data: bytes) -> str:
    """What an ISO file is: a picture by its brands, or else one of sound or moving pictures."""
    size = min(int.from_bytes(data[:4]), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] in (b"avif", b"avis") or (brands[0] in HEIF_BRANDS and b"avif" in brands):
        return "AVIF"
    return "HEIF" if brands[0] in HEIF_BRANDS else "mov"


def check(task: Task, data: bytes, tell: Tell) -> None:
    """Decode all of a medium; Refused or MediaError where it is not one, or larger than it may be."""
    found = container_of(data)
    if found == "mp3" and data[:3] == b"ID3" and task.kind == "audio":
        found = _behind_tag(data)
    if found is None or found not in (PICTURES if task.kind == "image" else DEMUXERS[task.kind]):
        raise Refused(INVALID, f"is no {KINDS[task.kind]}; convert it to one of these")
    if task.kind != "image":
        _check_streams(task, data, found, tell)
    elif found == "HEIF" and "HEIF" not in FORMATS:
        raise Refused(INVALID, "is a HEIC picture, which this server cannot read; save it as JPEG")
    else:
        Image.MAX_IMAGE_PIXELS = task.pixels
        read_image(data, task.budget, tell=tell)


def _behind_tag(data: bytes) -> str | None:
    """What stands behind an ID3 tag, which is put before bare AAC and FLAC as well."""
    size = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    found = container_of(data[size : size + 16])
    return found if found in ("aac", "flac") else "mp3"


def _check_streams(task: Task, data: bytes, found: str, tell: Tell) -> None:
    # FFmpeg guesses on its own, as the runtime's reader will, and has to come to what the first bytes show
    options = {"format_whitelist": "matroska,webm" if found == "matroska" else found}
    with av.open(io.BytesIO(data), options=options, metadata_errors="ignore") as container:
        if (container.duration or 0) / 1e6 > task.seconds:
            raise Refused(TOO_LARGE, f"lasts longer than the {task.seconds:g} s that are allowed; cut it")
        sounds = sound_streams(container)
        cover = av.stream.Disposition.attached_pic
        pictures = [s for s in container.streams if s.type == "video" and not s.disposition & cover]
        if task.kind == "video" and not pictures:
            raise Refused(INVALID, "has no moving pictures")
        if task.kind == "audio" and not container.streams.audio:
            raise Refused(INVALID, "has no sound")
        # only what is used counts: no cover and no data, and no second track of a codec that nobody knows
        for stream in (*(pictures[:1] if task.kind == "video" else []), *(sounds or container.streams.audio)):
            _check_codec(stream)
        if task.kind == "video":
            _decode(task, container, pictures[0])
    if sounds:
        read_audio(data, budget=task.budget, tell=tell)


def _check_codec(stream: Any) -> None:
    name = stream.codec_context.name if stream.codec_context else ""
    if name not in CODECS[stream.type] and not (stream.type == "audio" and name.startswith("pcm_")):
        raise Refused(INVALID, "is coded in a way that is not accepted; convert it, for example to WAV or to MP4 with H.264")


def _check_frames(task: Task, count: int) -> None:
    if count > task.frames:
        raise Refused(TOO_LARGE, f"has more than the {task.frames} frames that are allowed; cut it")


def _check_size(task: Task, width: int, height: int) -> None:
    if width * height > task.pixels:
        raise Refused(TOO_LARGE, f"has {width} x {height} pixels and {task.pixels} are allowed; shrink it first")


def _decode(task: Task, container: Any, stream: Any) -> None:
    """All frames that can be decoded."""
    stream.codec_context.thread_count = 1  # the time is counted for all threads together
    _check_size(task, stream.width, stream.height)
    _check_frames(task, stream.frames)
    # before a frame larger than its header states is allocated; FFmpeg counts the padding of blocks too
    stream.codec_context.options = {"max_pixels": str(2 * task.pixels + (1 << 16))}
    count = 0
    for frame in _frames(container.demux(stream)):
        count += 1
        _check_frames(task, count)
        _check_size(task, frame.width, frame.height)
    if not count:
        raise Refused(INVALID, "holds nothing that can be decoded; record it again")


def _frames(packets: Iterator[Any]) -> Iterator[Any]:
    """Past what is damaged."""
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def answer(task: Task, data: bytes) -> Answer:
    """What is wrong with a medium, and what was lost of it."""
    told: list[str] = []
    try:
        check(task, data, told.append)
    except Refused as e:
        status, sentence = e.args
        return Answer((status, sentence), ())
    except MemoryError:
        return Answer((TOO_LARGE, "takes more memory to decode than is allowed; shrink or cut it"), ())
    except MediaLimitError as e:
        return Answer((TOO_LARGE, _ours(e, data)), ())
    except MediaError as e:
        # what the decoders say of it may hold addresses and file names
        damaged = "cannot be decoded: it is damaged or cut short; save it again"
        return Answer((INVALID, damaged if e.__cause__ else _ours(e, data)), ())
    except Exception:
        return Answer((INVALID, "cannot be decoded: it is damaged or cut short; save it again"), ())
    return Answer(None, tuple(told[:MOST_SENTENCES]))


def _ours(error: MediaError, data: bytes) -> str:
    """What a reader says of a medium, without what it calls it."""
    return str(error).removeprefix(f"the input of {len(data)} bytes ").removeprefix("the wave ")


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    while line := requests.readline():
        task = Task(**json.loads(line))
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + task.cpu_seconds) + 1)
        answers.write(answer(task, requests.read(task.size)).line())
        answers.flush()


def _import_all() -> None:
    """What the bindings import when they meet a stream of some kind: by then they could not."""
    Image.preinit()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):  # which fetches samples
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
