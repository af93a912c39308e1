"""Sounds that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile

from omni.encoders.sources import Budget
from omni.encoders.waves import read_audio
from omni.errors import MediaError, MediaLimitError
from tests.encoders.samples import PNG, WAV, Wave, encoded_sound, sound_file, speech_like, video_file


def stereo(wave: Wave) -> Wave:
    return np.stack([wave, 0.5 * wave[::-1]], 1)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
        ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_read_audio_is_libsndfiles(kind: str, subtype: str, channels: int) -> None:
    wave = speech_like(1.3)[:20_001]
    data = sound_file(wave if channels == 1 else stereo(wave), 16000, kind, subtype)
    want, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    got = read_audio(data)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want.mean(1))


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float32", "float64", "int8"])
def test_read_audio_of_arrays(dtype: str) -> None:
    wave = speech_like(0.5)
    scale = {"int16": 2**15, "int32": 2**31, "uint8": 2**7, "int8": 2**7}.get(dtype, 1)
    values = np.round(wave.astype(np.float64) * scale) if scale > 1 else wave
    stored = (values + 128 if dtype == "uint8" else values).astype(dtype)
    want = (values / scale).astype(np.float32)
    np.testing.assert_array_equal(read_audio((stored, 16000)), want)
    np.testing.assert_array_equal(read_audio((np.stack([stored, stored], 1), 16000)), want)
    assert read_audio((np.array([-(2**15), 2**14], np.int16), 16000)).tolist() == [-1.0, 0.5]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [1, 7, 4410, 20_011])
def test_read_audio_resamples_as_librosa(rate: int, samples: int) -> None:
    wave = stereo(speech_like(3, rate)[:samples])
    want = librosa.resample(librosa.to_mono(wave.T), orig_sr=rate, target_sr=16000)
    np.testing.assert_array_equal(read_audio((wave, rate)), want)
    np.testing.assert_array_equal(read_audio(sound_file(wave, rate, "WAV", "FLOAT")), want)


@pytest.mark.parametrize(
    ("name", "rate", "late"),
    [
        ("mp3 ffmpeg", 44100, 0), ("mp3 libsndfile", 44100, 0), ("opus in ogg", 48000, 0), ("opus by libsndfile", 48000, 0),
        ("opus in matroska", 48000, 0),
        ("m4a", 44100, 1023),  # FFmpeg keeps the last AAC frame whole
        ("aac in mp4", 48000, 1023),
    ],
)  # fmt: skip
def test_read_audio_drops_what_encoders_add(name: str, rate: int, late: int) -> None:
    """The sound starts at its first sample and ends at its last: no delay of the encoder is left."""
    wave = speech_like(2.3, rate)[: 2 * rate + 123]
    data = {
        "mp3 ffmpeg": lambda: encoded_sound(wave, rate, "mp3", "libmp3lame"),
        "mp3 libsndfile": lambda: sound_file(wave, rate, "MP3"),
        "opus in ogg": lambda: encoded_sound(wave, rate, "ogg", "libopus"),
        "opus by libsndfile": lambda: sound_file(wave, rate, "OGG", "OPUS"),
        "opus in matroska": lambda: encoded_sound(wave, rate, "matroska", "libopus"),
        "m4a": lambda: encoded_sound(wave, rate, "ipod", "aac"),
        "aac in mp4": lambda: encoded_sound(wave, rate, "mp4", "aac"),
    }[name]()
    got = read_audio(data, rate=rate)
    assert 0 <= len(got) - len(wave) <= late
    lags = range(-40, 41)
    error = [np.abs(np.roll(got[: len(wave)], -lag) - wave)[100:-100].mean() for lag in lags]
    assert lags[int(np.argmin(error))] == 0
    assert min(error) < 0.1 * np.abs(wave).mean()


def test_read_audio_of_a_video(tmp_path: Path) -> None:
    path = video_file(tmp_path / "a.mkv", "libx264", sound="libopus")
    got, want = read_audio(path), librosa.resample(speech_like(3, 48000), orig_sr=48000, target_sr=16000)
    assert len(got) == 48_000
    assert np.abs(got - want).mean() < 0.1 * np.abs(want).mean()
    with pytest.raises(MediaError, match=r"b\.mp4 has no sound track"):
        read_audio(video_file(tmp_path / "b.mp4", "libx264"))


NAN = np.array([0, np.nan, 0.5], np.float32)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"just text, no sound" * 30, "cannot be decoded"),
        (WAV[:9000], "cut short: 55044 bytes are missing"),
        (sound_file(speech_like(2), 16000, "WAV", "FLOAT")[:-3], "cut short: 3 bytes"),
        (sound_file(speech_like(2), 16000, "FLAC")[:9000], "cannot be decoded"),
        (sound_file(speech_like(2), 16000, "AIFF")[:9000], "cut short"),
        (encoded_sound(speech_like(2), 16000, "ipod", "aac")[:-9], "cut short: 9 bytes"),
        (encoded_sound(speech_like(2, 48000), 48000, "matroska", "libopus")[:-9], "cut short: 9 bytes"),
        (encoded_sound(speech_like(4), 16000, "mp3", "libmp3lame")[:9000], "cut short"),
        (sound_file(np.zeros(0, np.float32), 16000, "WAV"), "no samples"),
        (sound_file(NAN, 16000, "WAV", "FLOAT"), "NaN or infinite"),
        ("http://example.com/a.wav", "download it first"),
        (PNG, "cannot be decoded"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n", "cannot be decoded"),
        ((NAN, 16000), "NaN or infinite"),
        ((np.array([np.inf]), 16000), "NaN or infinite"),
        ((np.zeros(0, np.int16), 16000), "no samples"),
        ((np.zeros((2, 16000), np.float32), 16000), r"pass \[S\] or \[S, channels\]"),
        ((np.zeros((2, 2, 2), np.float32), 16000), r"\[2, 2, 2\]"),
        ((np.zeros(9, np.complex64), 16000), "complex64"),
        ((np.zeros(9, bool), 16000), "bool"),
        ((np.zeros(9), 0), "0 Hz"),
        ((np.zeros(9), 16000.5), "pair"),
        (([0.1, 0.2], 16000), "pair"),
        (np.zeros(9), "ndarray is no media"),
    ],
)
def test_read_audio_says_what_is_wrong(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_audio(source)


def test_read_audio_of_unknown_length() -> None:
    """A WAV written to a pipe does not know its size."""
    at = WAV.index(b"data") + 4
    np.testing.assert_array_equal(read_audio(WAV[:at] + b"\xff\xff\xff\xff" + WAV[at + 4 :]), read_audio(WAV))


@pytest.mark.parametrize("source", [WAV, (speech_like(2), 16000), sound_file(speech_like(2), 16000, "OGG", "OPUS")])
def test_read_audio_within_the_budget(source: Any) -> None:
    assert len(read_audio(source, budget=Budget(max_seconds=2.1))) == 32_000
    with pytest.raises(MediaLimitError, match=r"1\.9 s"):
        read_audio(source, budget=Budget(max_seconds=1.9))
