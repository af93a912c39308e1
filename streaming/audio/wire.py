"""Sound as bytes: samples of a stream, files that grow as sound is made, and base64."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol, TypeAlias

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from omni.streaming.problems import Problem

Samples: TypeAlias = NDArray[np.float32]

FULL_SCALE = 32768
"""What a 16 bit sample is divided by."""
FILE_RATE = 24000
"""Samples per second that every file is encoded from; opus is 48 kHz to whoever decodes it, whatever it was made from."""


def _bounded(samples: Samples) -> Samples:
    """What is louder than -1..1 is cut there; left alone, decoders would differ in what becomes of it."""
    assert not np.isnan(samples).any(), "sound that is no number"
    return samples.clip(-1, 1)


def _pcm16(samples: Samples) -> NDArray[np.int16]:
    """The nearest 16 bit values; 1.0, which has none, becomes the largest."""
    return np.rint(_bounded(samples) * np.float32(FULL_SCALE)).clip(max=FULL_SCALE - 1).astype(np.int16)


def _decode_pcm16(data: bytes) -> Samples:
    if len(data) % 2:
        raise Problem(
            f"{len(data)} bytes of 16 bit samples: a sample has two bytes; send whole samples", code="invalid_audio"
        )
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(FULL_SCALE)


def _encode_pcm16(samples: Samples) -> bytes:
    return _pcm16(samples).astype("<i2").tobytes()


def _mulaw_levels() -> NDArray[np.int16]:
    """The 16 bit value of each mu-law code (G.711, table 2): sent inverted, three bits of exponent, four of mantissa."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 15) << 3) + 132) << ((code >> 4) & 7)) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_levels() -> NDArray[np.int16]:
    """The 16 bit value of each A-law code (G.711, table 1): even bits inverted, sign, exponent, mantissa."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 15) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 264) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _nearest_codes(levels: NDArray[np.int16]) -> NDArray[np.uint8]:
    """For each 16 bit sample, at the index of its unsigned twin, the code whose level is nearest."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order].astype(np.int32)
    between = ordered[1:] + ordered[:-1]  # twice the middle
    nearest = np.searchsorted(between, 2 * np.arange(-FULL_SCALE, FULL_SCALE), side="right")
    return np.roll(order[nearest], -FULL_SCALE).astype(np.uint8)


@dataclass(frozen=True)
class AudioFormat:
    """How a stream's samples are coded on the wire.

    Attributes:
        rate: samples per second.
        decode: bytes to float32 `[S]` in -1..1; Problem where the bytes are not whole samples.
        encode: float32 `[S]` to bytes, rounded to the nearest value; louder than -1..1 is cut there.
    """

    rate: int
    decode: Callable[[bytes], Samples]
    encode: Callable[[Samples], bytes]


def _g711(levels: NDArray[np.int16]) -> AudioFormat:
    codes, waves = _nearest_codes(levels), levels.astype(np.float32) / np.float32(FULL_SCALE)
    return AudioFormat(
        8000,
        lambda data: waves[np.frombuffer(data, np.uint8)],
        lambda samples: codes[_pcm16(samples).view(np.uint16)].tobytes(),
    )


FORMATS = {
    "audio/pcm": AudioFormat(24000, _decode_pcm16, _encode_pcm16),
    "audio/pcmu": _g711(_mulaw_levels()),
    "audio/pcma": _g711(_alaw_levels()),
}
"""The formats of the realtime protocol, by their types; PCM is signed, 16 bits, little-endian."""


class Resampler:
    """Sound at one rate, in pieces, to another: soxr HQ, which holds back about 15 ms until `finish`."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._stream = soxr.ResampleStream(rate_in, rate_out, 1, "float32", "HQ") if rate_in != rate_out else None

    def push(self, samples: Samples) -> Samples:
        """float32 `[S]` to what is ready by now; pieces of any size give what the whole gives."""
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> Samples:
        """What was held back; nothing may be pushed afterwards."""
        nothing = np.empty(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


_STANDARD = bytes.maketrans(b"-_", b"+/")
_AT_ONCE = 1 << 20
"""Characters of base64 that are decoded without letting others have their turn; a number of whole fours."""
WHOLE = 6
"""Bytes that make up whole base64 without padding, and whole 16 bit samples too."""


class Base64Pieces:
    """Bytes to base64 in pieces that may be decoded one by one, or all at once as they stand behind each other."""

    def __init__(self) -> None:
        self._waiting = b""

    def push(self, data: bytes) -> str:
        """What is ready by now; up to five bytes are held back."""
        data = self._waiting + data
        end = len(data) // WHOLE * WHOLE
        self._waiting = data[end:]
        return base64.b64encode(data[:end]).decode()

    def finish(self) -> str:
        """The rest; nothing may be pushed afterwards."""
        return base64.b64encode(self._waiting).decode()


def unbase64(text: object, most_bytes: int, param: str) -> bytes:
    """The bytes of a client's base64: in either alphabet, with or without padding, in lines, or in a data URL.

    Its length is looked at before anything is decoded. Raises Problem, naming `param`, for anything else than such a text
    and for one of more than `most_bytes`.
    """
    if not isinstance(text, str):
        raise Problem(f"{param} is not a string; send base64", param=param, code="invalid_type")
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        text = text if comma and header.lower().endswith(";base64") else "?"
    try:
        coded = bytearray()
        for at in range(0, len(text), _AT_ONCE):
            coded += text[at : at + _AT_ONCE].encode("ascii").translate(_STANDARD, b" \t\r\n")
        bare = coded.rstrip(b"=")
        if len(bare) * 3 // 4 > most_bytes:
            raise Problem(f"{param} holds more than {most_bytes} bytes; send less", 413, param=param, code="media_too_large")
        if len(coded) - len(bare) > 2 or b"=" in bare:
            raise ValueError
        bare += b"=" * (-len(bare) % 4)
        decoded = bytearray()
        for at in range(0, len(bare), _AT_ONCE):
            decoded += base64.b64decode(bare[at : at + _AT_ONCE], validate=True)
        return bytes(decoded)
    except ValueError as e:
        raise Problem(
            f"{param} is not base64; send base64, or a data URL with it", param=param, code="invalid_base64"
        ) from e


@dataclass(frozen=True)
class FileFormat:
    """How a file is made by FFmpeg.

    Attributes:
        container, codec: FFmpeg's names; sample_format is "s16", or "flt" or "fltp".
        bit_rate: per second; None where the codec loses nothing.
        coding, muxing: FFmpeg's options.
    """

    media_type: str
    container: str
    codec: str
    sample_format: str = "s16"
    bit_rate: int | None = None
    coding: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)


_PCM = FileFormat("audio/pcm", "s16le", "pcm_s16le")
# options that bring the first bytes sooner are: small FLAC frames, MP3 without a reservoir, one page for each opus packet
FILE_FORMATS = {
    "wav": FileFormat("audio/wav", "wav", "pcm_s16le"),
    "pcm": _PCM,
    "pcm16": _PCM,
    "mp3": FileFormat("audio/mpeg", "mp3", "libmp3lame", "fltp", 96_000, {"reservoir": "0"}, {"id3v2_version": "0"}),
    "opus": FileFormat("audio/ogg", "ogg", "libopus", "flt", 48_000, {}, {"page_duration": "20000"}),
    "aac": FileFormat("audio/aac", "adts", "aac", "fltp", 96_000),
    "flac": FileFormat("audio/flac", "flac", "flac", coding={"frame_size": "576"}, muxing={"metadata_header_padding": "0"}),
}
"""What a file of speech may be, by the names that requests use."""


class _Sink(Protocol):
    def write(self, data: bytes) -> int: ...


class _Pipe:
    """What FFmpeg writes until it is taken; it cannot be sought, so headers do not wait for what is known at the end."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


class _Muxer:
    """Samples at any rate to a file of one format, written to a sink."""

    def __init__(self, name: str, rate: int, sink: _Sink) -> None:
        form = FILE_FORMATS[name]
        # bitexact: no serial number by chance and no version of the library in the file
        options = {"fflags": "+bitexact", "flush_packets": "1", **form.muxing}
        self._container = av.open(sink, "w", format=form.container, options=options)
        self._stream = self._container.add_stream(form.codec, rate=FILE_RATE, options=form.coding)
        context = self._stream.codec_context
        context.layout, context.format, context.time_base = "mono", form.sample_format, Fraction(1, FILE_RATE)
        if form.bit_rate is not None:
            context.bit_rate = form.bit_rate
        self._container.start_encoding()
        self._format, self._frame_len = form.sample_format, context.frame_size
        self._resampler = Resampler(rate, FILE_RATE)
        self._waiting = np.empty(0, np.float32)
        self._num_encoded = 0

    def push(self, samples: Samples) -> None:
        self._add(self._resampler.push(samples))

    def finish(self) -> None:
        self._add(self._resampler.finish())
        if len(self._waiting):
            self._encode(self._waiting)
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _add(self, samples: Samples) -> None:
        waiting = np.concatenate([self._waiting, samples])
        frame_len = self._frame_len or max(1, len(waiting))
        whole = len(waiting) - len(waiting) % frame_len
        for start in range(0, whole, frame_len):
            self._encode(waiting[start : start + frame_len])
        self._waiting = waiting[whole:]

    def _encode(self, samples: Samples) -> None:
        data = _pcm16(samples) if self._format == "s16" else _bounded(samples)
        frame = av.AudioFrame.from_ndarray(data[None], self._format, "mono")
        frame.sample_rate, frame.pts = FILE_RATE, self._num_encoded
        self._num_encoded += len(samples)
        self._container.mux(self._stream.encode(frame))


class FileEncoder:
    """A mono file of one of FILE_FORMATS whose bytes come as soon as they are known.

    The same samples give the same bytes, in whatever pieces they come. What only the end tells is left open: a WAV states
    0xFFFFFFFF bytes, a FLAC no length, and an MP3 begins with its encoder's 46 ms of silence; `encode_file` has them right.

    Args:
        name: of FILE_FORMATS.
        rate: samples per second of what is pushed.
    """

    def __init__(self, name: str, rate: int) -> None:
        self._pipe = _Pipe()
        self._muxer = _Muxer(name, rate, self._pipe)

    def push(self, samples: Samples) -> bytes:
        """float32 `[S]` to the bytes that are ready by now; with the first come the header's."""
        self._muxer.push(samples)
        return self._pipe.take()

    def finish(self) -> bytes:
        """The rest of the file; nothing may be pushed afterwards."""
        self._muxer.finish()
        return self._pipe.take()


def encode_file(name: str, samples: Samples, rate: int) -> bytes:
    """A whole file of float32 `[S]` at `rate`, as `FileEncoder` makes it, but with true lengths in its header."""
    file = io.BytesIO()
    muxer = _Muxer(name, rate, file)
    muxer.push(samples)
    muxer.finish()
    return file.getvalue()
