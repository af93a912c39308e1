from __future__ import annotations

import base64
import io
import itertools
import math
import struct
import wave
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise

import av
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.streaming.audio.wire import (
    FILE_FORMATS,
    FORMATS,
    Base64Pieces,
    FileEncoder,
    Resampler,
    Samples,
    encode_file,
    unbase64,
)
from omni.streaming.problems import Problem

NAMES = list(FILE_FORMATS)
PIECES = st.lists(st.integers(0, 5000), max_size=12)
EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
EVERY_CODE = bytes(range(256))


def speech_like(num_samples: int, rate: int = 24000) -> Samples:
    """Gliding tones in bursts, loud to the last sample."""
    times = np.arange(num_samples) / rate
    tone = np.sin(2 * np.pi * (200 + 300 * times) * times) + 0.3 * np.sin(2 * np.pi * 1200 * times)
    burst = 0.1 + np.exp(-(((times - times[-1:]) % 0.5 - 0.25) ** 2) / 0.02)
    return (0.3 * tone * burst).astype(np.float32)


def pieces(whole: Samples, lengths: list[int]) -> list[Samples]:
    ends = [min(int(end), len(whole)) for end in np.cumsum([0, *lengths])]
    return [whole[start:end] for start, end in pairwise([*ends, len(whole)])]


# Streams


def test_pcm16_keeps_every_value() -> None:
    pcm = FORMATS["audio/pcm"]
    data = EVERY_SAMPLE.astype("<i2").tobytes()
    samples = pcm.decode(data)
    assert samples.dtype == np.float32 and samples[0] == -1 and samples[32768] == 0 and samples[-1] == 32767 / 32768
    assert pcm.encode(samples) == data


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        (0.6 / 32768, 1),
        (-0.6 / 32768, -1),
        (0.4 / 32768, 0),
        (1.0, 32767),
        (-1.0, -32768),
        (1.5, 32767),
        (-1.5, -32768),
        (3.1, 32767),
        (math.inf, 32767),
        (-math.inf, -32768),
    ],
)
def test_pcm16_rounds_and_never_wraps(sample: float, value: int) -> None:
    assert FORMATS["audio/pcm"].encode(np.array([sample], np.float32)) == struct.pack("<h", value)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_number_is_not_sent(name: str) -> None:
    with pytest.raises(AssertionError):
        FORMATS[name].encode(np.array([0, math.nan], np.float32))


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0"])
def test_half_a_sample_is_refused(data: bytes) -> None:
    with pytest.raises(Problem, match="two bytes"):
        FORMATS["audio/pcm"].decode(data)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_nothing(name: str) -> None:
    assert FORMATS[name].encode(FORMATS[name].decode(b"")) == b""


def ffmpeg_codes(codec: str) -> bytes:
    """FFmpeg's code of every sample."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.time_base = 8000, "mono", "s16", Fraction(1, 8000)
    frame = av.AudioFrame.from_ndarray(EVERY_SAMPLE[None], "s16", "mono")
    frame.sample_rate, frame.pts = 8000, 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def ffmpeg_levels(codec: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """FFmpeg's value of every code."""
    decoder = av.CodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    return np.concatenate([frame.to_ndarray()[0] for frame in decoder.decode(av.Packet(EVERY_CODE))]).astype(np.int64)


G711 = pytest.mark.parametrize(("name", "codec"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")])


@G711
def test_g711_values_are_ffmpegs(name: str, codec: str) -> None:
    assert FORMATS[name].rate == 8000
    assert np.array_equal(FORMATS[name].decode(EVERY_CODE) * 32768, ffmpeg_levels(codec))


@G711
def test_g711_codes_are_ffmpegs_or_nearer(name: str, codec: str) -> None:
    """FFmpeg drops two bits before it looks for the code, so next to a boundary its code may be the farther one."""
    levels, samples = ffmpeg_levels(codec), EVERY_SAMPLE.astype(np.int64)
    every = FORMATS["audio/pcm"].decode(EVERY_SAMPLE.tobytes())
    ours = np.frombuffer(FORMATS[name].encode(every), np.uint8)
    theirs = np.frombuffer(ffmpeg_codes(codec), np.uint8)
    errors, their_errors = abs(levels[ours] - samples), abs(levels[theirs] - samples)
    assert np.array_equal(errors, abs(levels - samples[:, None]).min(axis=1))
    differ = levels[ours] != levels[theirs]
    assert (errors[differ] <= their_errors[differ]).all() and (their_errors - errors).max() <= 6
    assert differ.mean() < 0.02


@G711
def test_g711_codes_survive(name: str, codec: str) -> None:
    again = FORMATS[name].encode(FORMATS[name].decode(EVERY_CODE))
    levels = ffmpeg_levels(codec)
    assert np.array_equal(levels[np.frombuffer(again, np.uint8)], levels)
    assert FORMATS[name].decode(FORMATS[name].encode(np.array([2, -2], np.float32))) == pytest.approx([1, -1], abs=0.02)


# Rates


@pytest.mark.parametrize(("rate_in", "rate_out"), [(24000, 16000), (24000, 8000), (8000, 24000), (44100, 24000)])
@pytest.mark.parametrize("num_samples", [1, 100, 30_001])
def test_resampled_as_a_whole(rate_in: int, rate_out: int, num_samples: int) -> None:
    samples = speech_like(num_samples, rate_in)
    resampler = Resampler(rate_in, rate_out)
    made = np.concatenate([resampler.push(samples), resampler.finish()])
    truth = soxr.resample(samples, rate_in, rate_out, quality="HQ")
    assert made.dtype == np.float32 and len(made) == len(truth)
    assert np.abs(made - truth).max(initial=0) < 1e-5


@settings(max_examples=25, deadline=None)
@given(lengths=PIECES, rates=st.sampled_from([(24000, 16000), (24000, 8000), (8000, 24000), (24000, 24000)]))
def test_resampled_in_pieces(lengths: list[int], rates: tuple[int, int]) -> None:
    samples = speech_like(20_011)
    one, many = Resampler(*rates), Resampler(*rates)
    whole = np.concatenate([one.push(samples), one.finish()])
    parts = [*(many.push(piece) for piece in pieces(samples, lengths)), many.finish()]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("rate_in", "rate_out"), [(24000, 16000), (24000, 8000), (8000, 24000)])
def test_resampling_holds_little_back(rate_in: int, rate_out: int) -> None:
    resampler = Resampler(rate_in, rate_out)
    made = sum(len(resampler.push(piece)) for piece in pieces(speech_like(rate_in, rate_in), [rate_in // 50] * 50))
    assert 0 < rate_out - made < 0.06 * rate_out


# base64


@given(data=st.binary(max_size=300))
def test_base64_of_bytes(data: bytes) -> None:
    assert unbase64(base64.b64encode(data).decode(), len(data), "audio") == data


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Q", "invalid_base64", 400),
        ("QUJDQ", "invalid_base64", 400),
        ("Q===", "invalid_base64", 400),
        ("QUI=QUI=", "invalid_base64", 400),
        ("=QUI", "invalid_base64", 400),
        ("QU.JD", "invalid_base64", 400),
        ("data:audio/wav,QUJD", "invalid_base64", 400),
        ("data:audio/wav;base64", "invalid_base64", 400),
        ("data:audio/wav;base64,data:audio/wav;base64,QUJD", "invalid_base64", 400),
        ("QUJÄ", "invalid_base64", 400),
        ("\ud800\ud800QQ", "invalid_base64", 400),
        ("A" * 1368, "media_too_large", 413),
        ("!" * 10_000, "media_too_large", 413),
        ("A" * 1370 + "\n" * 9, "media_too_large", 413),
        (None, "invalid_type", 400),
        (7, "invalid_type", 400),
        (b"QUJD", "invalid_type", 400),
    ],
)
def test_what_is_no_base64(text: object, code: str, status: int) -> None:
    with pytest.raises(Problem) as caught:
        unbase64(text, 1024, "audio")
    assert (caught.value.code, caught.value.status, caught.value.param) == (code, status, "audio")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 58, 1000])
@pytest.mark.parametrize(
    "form",
    [
        lambda data: base64.b64encode(data).decode().rstrip("="),
        lambda data: base64.urlsafe_b64encode(data).decode(),
        lambda data: base64.encodebytes(data).decode(),
        lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n").rstrip(),
        lambda data: " \t".join(base64.b64encode(data).decode()),
        lambda data: f"data:audio/wav;base64,{base64.b64encode(data).decode()}",
        lambda data: f"DATA:audio/pcm;rate=24000;BASE64,{base64.urlsafe_b64encode(data).decode().rstrip('=')}\n",
    ],
)
def test_base64_in_any_dress(form: Callable[[bytes], str], size: int) -> None:
    data = bytes(i * 251 % 256 for i in range(size))
    assert unbase64(form(data), size, "audio") == data


@pytest.mark.parametrize("sizes", [[1], [5, 7, 0], [6], [100, 1]])
def test_base64_in_pieces_joins(sizes: list[int]) -> None:
    data, pieces, told, at = bytes(range(200)), Base64Pieces(), list[str](), 0
    for size in itertools.cycle(sizes):
        told.append(pieces.push(data[at : at + size]))
        at += size
        if at >= len(data):
            break
    told.append(pieces.finish())
    assert base64.b64decode("".join(told), validate=True) == data == b"".join(map(base64.b64decode, told))
    assert all(len(base64.b64decode(piece)) % 2 == 0 for piece in told[:-1])


@pytest.mark.parametrize("most", range(5))
def test_base64_is_capped_to_the_byte(most: int) -> None:
    assert unbase64(base64.b64encode(bytes(most)).decode(), most, "audio") == bytes(most)
    with pytest.raises(Problem, match=f"more than {most} bytes"):
        unbase64(base64.b64encode(bytes(most + 1)).decode(), most, "audio")


# Files

DECODED_RATE = {"opus": 48000}
LATE = {"mp3": 1105, "aac": 1024}
"""Samples of silence before the sound in formats that have no field for it, as their encoders are known for."""
MIN_SNR_DB = {"mp3": 15, "aac": 15, "opus": 10}


def decoded(name: str, data: bytes) -> tuple[Samples, int]:
    if FILE_FORMATS[name].media_type == "audio/pcm":
        return FORMATS["audio/pcm"].decode(data), 24000
    # a few frames of ADTS are too few to be recognised without being told
    with av.open(io.BytesIO(data), format="aac" if name == "aac" else None) as container:
        assert container.streams.audio[0].channels == 1
        frames = list(container.decode(audio=0))
        rate = container.streams.audio[0].rate
    arrays = [frame.to_ndarray()[0] for frame in frames]
    scale = {"s16": 2**15, "s32": 2**31}
    return np.concatenate([a / np.float32(scale.get(f.format.name, 1)) for a, f in zip(arrays, frames, strict=True)]), rate


def assert_holds(name: str, data: bytes, sound: Samples, late: int, exact: bool) -> None:
    """That `data` decodes to `sound` (24 kHz), `late` samples late: its length, all of it, and its last 20 ms."""
    made, rate = decoded(name, data)
    assert rate == DECODED_RATE.get(name, 24000)
    truth = soxr.resample(sound, 24000, rate) if rate != 24000 else sound
    if exact:
        assert len(made) == len(truth)
    made = made[late : late + len(truth)]
    assert len(made) == len(truth)
    if name not in MIN_SNR_DB:
        assert np.abs(made - truth).max() <= 0.5 / 32768 + 1e-7
        return
    for part in (slice(None), slice(-rate // 50, None)):
        noise = np.square(made[part] - truth[part]).sum()
        assert 10 * math.log10(np.square(truth[part]).sum() / noise) > MIN_SNR_DB[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_samples", [24_000, 31_337, 36_863])
def test_a_streamed_file_holds_every_sample(name: str, num_samples: int) -> None:
    sound = speech_like(num_samples)
    encoder = FileEncoder(name, 24000)
    data = b"".join([*(encoder.push(piece) for piece in pieces(sound, [5760] * 9)), encoder.finish()])
    assert_holds(name, data, sound, LATE.get(name, 0), exact=name not in LATE)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_holds_every_sample(name: str) -> None:
    sound = speech_like(31_337)
    late = LATE[name] if name == "aac" else 0  # ADTS has no field; MP3's header is written at the end
    assert_holds(name, encode_file(name, sound, 24000), sound, late, exact=name != "aac")


@cache
def whole_file(name: str, rate: int) -> bytes:
    encoder = FileEncoder(name, rate)
    return encoder.push(speech_like(20_011)) + encoder.finish()


@settings(max_examples=40, deadline=None)
@given(lengths=PIECES, name=st.sampled_from(NAMES), rate=st.sampled_from([24000, 16000]))
def test_pieces_make_the_file_that_the_whole_does(lengths: list[int], name: str, rate: int) -> None:
    encoder = FileEncoder(name, rate)
    parts = [*(encoder.push(piece) for piece in pieces(speech_like(20_011), lengths)), encoder.finish()]
    assert b"".join(parts) == whole_file(name, rate)


@pytest.mark.parametrize("name", NAMES)
def test_another_rate_is_resampled(name: str) -> None:
    sound = speech_like(16_000, 16000)
    at_24k = np.asarray(soxr.resample(sound, 16000, 24000), np.float32)
    late = LATE[name] if name == "aac" else 0
    assert_holds(name, encode_file(name, sound, 16000), at_24k, late, exact=name != "aac")


@pytest.mark.parametrize(
    ("name", "ms"), [("wav", 10), ("pcm", 10), ("pcm16", 10), ("flac", 30), ("opus", 40), ("mp3", 50), ("aac", 90)]
)
def test_sound_comes_early(name: str, ms: int) -> None:
    """After how many ms of sound, in pieces of 10 ms, the first of it is in the file."""
    encoder = FileEncoder(name, 24000)
    header = encoder.push(np.empty(0, np.float32))
    assert (header != b"") == (name in ("wav", "opus", "flac"))
    parts = [encoder.push(piece) for piece in pieces(speech_like(4800), [240] * 20)]
    assert next(i for i, part in enumerate(parts) if part) + 1 == ms // 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_samples", [1, 479])
def test_the_shortest_sounds(name: str, num_samples: int) -> None:
    encoder = FileEncoder(name, 24000)
    data = encoder.push(np.full(num_samples, 0.5, np.float32)) + encoder.finish()
    assert len(decoded(name, data)[0]) >= num_samples


@pytest.mark.parametrize("name", NAMES)
def test_no_sound_is_no_error(name: str) -> None:
    encoder = FileEncoder(name, 24000)
    data = encoder.push(np.empty(0, np.float32)) + encoder.finish()
    assert len(data) < 200
    assert len(encode_file(name, np.empty(0, np.float32), 24000)) < 400


@pytest.mark.parametrize("name", NAMES)
def test_what_is_too_loud_is_cut(name: str) -> None:
    sound = (4 * np.sin(np.arange(12_000) * 0.05)).astype(np.float32)
    made, _ = decoded(name, encode_file(name, sound, 24000))
    assert np.abs(made).max() < 1.5
    at = slice(1000, 10_000)
    if name not in MIN_SNR_DB:
        assert np.abs(made[at] - np.clip(sound[at], -1, 1)).max() <= 1 / 32768


def test_a_streamed_wav_leaves_its_length_open() -> None:
    encoder = FileEncoder("wav", 24000)
    header = encoder.push(np.zeros(10, np.float32))[:44]
    assert header[:8] == b"RIFF\xff\xff\xff\xff" and header[36:] == b"data\xff\xff\xff\xff"


def test_a_whole_wav_states_its_length() -> None:
    with wave.open(io.BytesIO(encode_file("wav", np.zeros(777, np.float32), 24000))) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels(), file.getsampwidth()) == (777, 24000, 1, 2)


def test_a_file_may_be_abandoned() -> None:
    for name in NAMES:
        FileEncoder(name, 24000).push(np.zeros(3000, np.float32))
