"""Where media come from: a path, bytes or a data URL as a whole binary file within a budget."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote

import numpy as np
from PIL import Image

from omni.errors import MediaError, MediaLimitError, MediaWarning

_STANDARD = bytes.maketrans(b"-_", b"+/")

Tell: TypeAlias = Callable[[str], None]
"""Takes a sentence about what was lost of a medium; it names the medium."""


def tell_python(sentence: str) -> None:
    """What readers do with such a sentence unless told otherwise: a `MediaWarning`, which points at who called them."""
    warnings.warn(sentence, MediaWarning, stacklevel=3)


@dataclass(frozen=True)
class Budget:
    """How much one input may cost; checked on what the header states before decoding, and again while decoding.

    Attributes:
        max_bytes: of the encoded file, bytes or data URL.
        max_pixels: of one picture or frame.
        max_frames: decoded from one video (not only those kept).
        max_seconds: of one sound or video.
        max_clip_bytes: of the frames shown of one video, as RGB at the size that they are shown in.
    """

    max_bytes: int = 1 << 29
    max_pixels: int = 1 << 26
    max_frames: int = 250_000
    max_seconds: float = 7200.0
    max_clip_bytes: int = 5_000_000_000


DEFAULT_BUDGET = Budget()
UNKNOWN = 500_000_000
"""Bytes of samples: a WAV file that states more and has less was written before its writer could know."""


@dataclass(frozen=True)
class Media:
    """An open file, its size in bytes, and what messages call it."""

    name: str
    file: BinaryIO
    size: int


def out_of_memory(name: str) -> MediaLimitError:
    return MediaLimitError(f"{name} takes more memory to decode than there is; shrink or cut it")


def _check_bytes(name: str, size: int, budget: Budget) -> None:
    if size > budget.max_bytes:
        raise MediaLimitError(f"{name} is {size} bytes and the budget is {budget.max_bytes}; send a smaller file")


@contextmanager
def opened(source: object, budget: Budget) -> Iterator[Media]:
    """A path, `file://` or data URL, or bytes as a binary file of known size, within `max_bytes` and not empty."""
    if isinstance(source, str) and source[:5].lower() == "data:":
        media = _from_data_url(source, budget)
    elif isinstance(source, bytes):
        media = Media(f"the input of {len(source)} bytes", io.BytesIO(source), len(source))
    elif isinstance(source, str | Path):
        media = _from_path(source)
    else:
        raise MediaError(f"a {type(source).__name__} is no media; pass a path, bytes or a data URL")
    with media.file:
        _check_bytes(media.name, media.size, budget)
        if media.size == 0:
            raise MediaError(f"{media.name} is empty (0 bytes); fetch or record it again")
        yield media


def _from_data_url(url: str, budget: Budget) -> Media:
    header, comma, payload = url.partition(",")
    name = f"the data URL {header[:60]!r}"
    if not comma or not header.lower().endswith(";base64"):
        raise MediaError(f"{name} is not of the form data:TYPE;base64,DATA; write it so")
    _check_bytes(name, len(payload) * 3 // 4 - payload.count("=", -2), budget)
    try:
        data = unbase64(payload)
    except ValueError as e:
        raise MediaError(f"{name} holds damaged base64: {e}; encode it again") from e
    return Media(name, io.BytesIO(data), len(data))


def unbase64(text: str) -> bytes:
    """The bytes of base64 in either alphabet, in lines or in one, with or without padding; ValueError for other text."""
    coded = text.encode("ascii").translate(_STANDARD, b" \t\r\n")
    bare = coded.rstrip(b"=")
    if len(coded) - len(bare) > 2:
        raise ValueError("more than two signs of padding")
    return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)


def _from_path(source: str | Path) -> Media:
    path = str(source)
    if path[:7].lower() == "file://":
        path = unquote(re.sub(r"^file://(localhost)?", "", path, flags=re.IGNORECASE))
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise MediaError(f"{path[:200]} is not fetched; download it first and pass the file, or pass a data URL")
    try:
        info = Path(path).stat()
        if stat.S_ISDIR(info.st_mode):
            raise MediaError(f"{path} is a directory; pass a file")
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could wait for ever
            raise MediaError(f"{path} is not a regular file; pass its bytes")
        file = open(path, "rb")  # noqa: SIM115 (closed by `opened`)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the path
        reason = getattr(e, "strerror", None) or e
        raise MediaError(f"{path[:200]!r} cannot be opened: {reason}; check the path") from e
    return Media(path, file, info.st_size)


def digest_of(source: object) -> bytes | None:
    """Of all that reading a source depends on; None for one whose content may change, or is not at hand."""
    match source:
        case bytes():
            kind, content = "bytes", source
        case str() if source.startswith("data:"):
            kind, content = "url", source.encode()
        case np.ndarray() if source.dtype.kind in "iuf":
            kind, content = f"array {source.dtype} {source.shape}", source.tobytes()
        case Image.Image() if source.mode == "RGB" and not source.info.keys() & {"transparency", "exif"}:
            kind, content = f"picture {source.size}", source.tobytes()
        case (np.ndarray() as wave, int() as rate) if (inner := digest_of(wave)) is not None:
            kind, content = f"wave {rate}", inner
        case list() as frames if frames and None not in (inners := [digest_of(frame) for frame in frames]):
            kind, content = f"frames {len(frames)}", b"".join(inner for inner in inners if inner)
        case _:
            return None
    digest = hashlib.blake2b(f"{kind}: ".encode(), digest_size=16)
    digest.update(content)
    return digest.digest()


def check_whole(media: Media) -> None:
    """Refuse a file that is shorter than it states."""
    if missing := missing_bytes(media):
        raise MediaError(f"{media.name} is cut short: {missing} bytes are missing; get the whole file")


def missing_bytes(media: Media) -> int:
    """By how much an MP4, Matroska, WAV or CAF file is shorter than it states; FFmpeg returns what is left of it.

    0 too where it does not say, or says what writers do that cannot know: 0, -1, or more than they would ever write.
    """
    head = _read(media, 0, 12)
    if head[4:8] == b"ftyp":
        end = _mp4_end(media)
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _matroska_end(media)
    elif head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        end = _wav_end(media)
    elif head[:4] == b"caff":
        end = _caf_end(media)
    else:
        return 0
    return max(0, end - media.size)


def _read(media: Media, at: int, size: int) -> bytes:
    media.file.seek(at)
    return media.file.read(size)


def _mp4_end(media: Media) -> int:
    """Where the last box ends."""
    at = 0
    while len(head := _read(media, at, 16)) >= 8:
        size = int.from_bytes(head[:4])
        if size == 1:  # the true one follows
            size = int.from_bytes(head[8:16])
        if size < 8:  # 0: to the end of the file; else damaged, and FFmpeg's to refuse
            return media.size
        at += size
    return at


def _matroska_end(media: Media) -> int:
    """Where the segment ends, or 0 where it does not say."""
    _, at = _matroska_size(media, 4, in_header=True)
    size, start = _matroska_size(media, at + 4)
    return start + size


def _matroska_size(media: Media, at: int, in_header: bool = False) -> tuple[int, int]:
    """The length of the element whose length field is at `at`, and where its content starts (after it: `in_header`)."""
    field = _read(media, at, 8) or b"\x80"
    width = 9 - field[0].bit_length()  # as many bytes as the first has leading zeros, plus one
    size = int.from_bytes(field[:width]) & ((1 << 7 * width) - 1)
    if size == (1 << 7 * width) - 1:  # unknown: a live stream
        size = 0
    return size, at + width + (size if in_header else 0)


def _wav_end(media: Media) -> int:
    """Where the samples end, or 0 where it does not say."""
    at, long = 12, 0
    while len(head := _read(media, at, 8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"ds64":  # of RF64: what is too long for its own chunk
            long = int.from_bytes(_read(media, at + 16, 8), "little")
        if head[:4] == b"data":
            size = long if long and size == 0xFFFFFFFF else size
            return at + 8 + size if size and (long or size < UNKNOWN) else 0
        at += 8 + size + size % 2
    return 0


def unstated_share(media: Media) -> float:
    """Of a WAV file, how much lies behind the samples and is no chunk, as a share of the samples that it states.

    Recorders that stop without writing their header again leave that; FFmpeg reads what is stated. 0 for other files.
    """
    end = _wav_end(media) if _read(media, 0, 4) in (b"RIFF", b"RF64", b"BW64") and _read(media, 8, 4) == b"WAVE" else 0
    if not 0 < end < media.size:
        return 0.0
    at = end + end % 2
    while len(head := _read(media, at, 8)) == 8 and head[:4].isascii() and head[:4].decode().isprintable():
        at += 8 + int.from_bytes(head[4:], "little")
        at += at % 2
    return max(0, media.size - at) / max(1, end)


def _caf_end(media: Media) -> int:
    """Where the samples end, or 0 where it does not say."""
    at = 8
    while len(head := _read(media, at, 12)) == 12:
        size = int.from_bytes(head[4:], signed=True)
        if size < 0 or head[:4] == b"data":
            return max(0, at + 12 + size) if size >= 0 else 0
        at += 12 + size
    return 0
