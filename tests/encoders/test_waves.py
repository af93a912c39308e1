"""Sounds that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import pytest
import soundfile

from omni.encoders.sources import Budget
from omni.encoders.waves import read_audio
from omni.errors import MediaError, MediaLimitError, MediaWarning
from tests.encoders.samples import PNG, WAV, Wave, encode_sound, encoded_sound, sound_file, speech_like, video_file


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


def wiped(data: bytes, first: int, last: int) -> bytes:
    return data[:first] + bytes(len(data[first:last])) + data[last:]


NAN = np.array([0, np.nan, 0.5], np.float32)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"just text, no sound" * 30, "cannot be decoded"),
        (sound_file(speech_like(2), 16000, "FLAC")[:3000], "nothing of its sound can be decoded"),
        (encoded_sound(speech_like(2), 16000, "ipod", "aac")[:9000], "cut short"),  # before its index
        (wiped(encoded_sound(speech_like(2), 16000, "matroska", "aac"), 600, -1500), "is damaged|cannot be decoded"),
        (sound_file(speech_like(2) * 32768, 16000, "WAV", "FLOAT"), "floats up to 5172.* divide them by 32768"),
        (sound_file(np.zeros(0, np.float32), 16000, "WAV"), "no samples"),
        (sound_file(NAN, 16000, "WAV", "FLOAT"), "NaN or infinite"),
        ("http://example.com/a.wav", "download it first"),
        (PNG, "cannot be decoded"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n", "cannot be decoded"),
        ((NAN, 16000), "NaN or infinite"),
        ((np.array([np.inf]), 16000), "NaN or infinite"),
        ((speech_like(1) * 32767, 16000), "divide them by 32768"),
        ((np.repeat(speech_like(1)[:, None] * 3, 2, 1), 16000), r"up to 1\.5 .* divide them by its peak"),
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


@pytest.mark.parametrize("source", [WAV, (speech_like(2), 16000), sound_file(speech_like(2), 16000, "OGG", "OPUS")])
def test_read_audio_within_the_budget(source: Any) -> None:
    assert len(read_audio(source, budget=Budget(max_seconds=2.1))) == 32_000
    with pytest.raises(MediaLimitError, match=r"1\.9 s"):
        read_audio(source, budget=Budget(max_seconds=1.9))


def told(source: Any, **how: Any) -> tuple[Wave, list[str]]:
    said = list[str]()
    return read_audio(source, tell=said.append, **how), said


SIX = speech_like(6)
FILES = {
    "mp3": encoded_sound(SIX, 16000, "mp3", "libmp3lame"),
    "adts": encoded_sound(SIX, 16000, "adts", "aac"),
    "m4a": encoded_sound(SIX, 16000, "ipod", "aac"),
    "flac": sound_file(SIX, 16000, "FLAC"),
    "flac in matroska": encoded_sound(SIX, 16000, "matroska", "flac"),
    "vorbis": sound_file(SIX, 16000, "OGG", "VORBIS"),
}


@pytest.mark.parametrize("kind", FILES)
def test_read_audio_passes_over_damage_and_keeps_time(kind: str) -> None:
    """A wiped part in the middle is silent; what is around it is heard where it was."""
    num_bytes = 60 if kind == "mp3" else 400
    data = FILES[kind]
    want, nothing = told(data)
    assert not nothing
    middle = len(data) // 2
    got, said = told(wiped(data, middle, middle + num_bytes))
    assert len(said) == 1
    assert "silent" in said[0]
    assert abs(len(got) - len(want)) <= 1024
    first, last = 16000 + 16000 // 2, 5 * 16000
    np.testing.assert_array_equal(got[:first], want[:first])
    lags = range(-1100, 1101)
    errors = [np.abs(np.roll(got, -lag)[last : last + 8000] - want[last : last + 8000]).mean() for lag in lags]
    assert abs(lags[int(np.argmin(errors))]) <= 1024
    assert min(errors) < 0.01


@pytest.mark.parametrize("rate", [16000, 44100])
def test_frames_that_lean_on_lost_ones_are_silent(rate: int) -> None:
    """Of MP3, whose frames keep bytes in those before them: what is heard behind damage is what was heard without it."""
    data = encoded_sound(speech_like(6, rate), rate, "mp3", "libmp3lame")
    with av.open(io.BytesIO(data)) as container:
        places = [packet.pos for packet in container.demux(audio=0) if packet.size]
    want, _ = told(data)
    for at in places[20:-20:16]:
        got, said = told(wiped(data, at, at + 60))
        assert len(said) == 1 and "silent" in said[0]
        assert abs(len(got) - len(want)) < 320  # the encoder's padding
        got = got[: len(want)]
        assert (got == 0).sum() < 0.4 * 16000
        wrong = (np.abs(got) > 1e-3) & (np.abs(got - want) > 0.05)
        assert wrong.sum() < 0.02 * 16000


def test_read_audio_keeps_time_past_long_damage() -> None:
    """Of a bare stream the demuxer loses count: what it passed over is told by how much it was."""
    data = encoded_sound(SIX, 16000, "mp3", "libmp3lame")
    got, said = told(wiped(data, 6000, 9000))
    assert abs(len(got) - len(SIX)) < 0.05 * 16000
    assert len(said) == 1
    assert float(said[0].split(": ")[1].split(" s")[0]) == pytest.approx(1.1, abs=0.1)  # with what leans on it


@pytest.mark.parametrize(
    ("data", "seconds", "said"),
    [
        (WAV[:9000], 0.28, "is cut short: 55044 bytes are missing"),
        (sound_file(speech_like(2), 16000, "WAV", "FLOAT")[:-3], 2, "cut short: 3 bytes"),
        (sound_file(speech_like(2), 16000, "RF64")[:-30_000], 1.06, "cut short: 30000 bytes"),
        (sound_file(speech_like(2), 16000, "CAF")[:-30_000], 1.06, "cut short: 30000 bytes"),
        (FILES["flac"][:40_000], 2.5, r"states 6\.0 s and 2\.\d s are there"),
        (sound_file(speech_like(2), 16000, "AIFF")[:9000], 0.27, r"states 2\.0 s and 0\.3 s"),
        (FILES["mp3"][:9000], 2.8, r"states 6\.0 s and 2\.\d s"),
        (encoded_sound(speech_like(4, 48000), 48000, "matroska", "libopus")[:20_000], 2.3, r"states 4\.0 s and 2\.\d s"),
    ],
)
def test_read_audio_of_what_was_cut_short(data: bytes, seconds: float, said: str) -> None:
    got, sentences = told(data)
    assert len(got) / 16000 == pytest.approx(seconds, abs=0.4)
    assert re.search(said, sentences[-1])


def test_read_audio_of_a_wav_that_states_less_than_there_is() -> None:
    """As a recorder leaves it that stopped before it wrote its header again; chunks behind the samples are no sound."""
    at = WAV.index(b"data") + 4
    size = len(WAV) - at - 4
    half = WAV[:at] + (size // 2).to_bytes(4, "little") + WAV[at + 4 :]
    got, said = told(half)
    assert abs(len(got) - size // 4) <= 1 and len(said) == 1
    assert re.search(r"some 1\.0 s of sound lie behind the 1\.0 s that it states", said[0])
    tagged = WAV + b"LIST" + (60_000).to_bytes(4, "little") + bytes(60_000)
    got, said = told(tagged)
    assert len(got) == size // 2 and said == []


def test_read_audio_warns_unless_told_otherwise() -> None:
    with pytest.warns(MediaWarning, match="55044 bytes are missing") as caught:
        read_audio(WAV[:9000])
    assert caught[0].filename == __file__


def test_read_audio_of_an_mp4_whose_index_is_at_its_beginning(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mp4", "libx264", sound="aac").read_bytes()
    got, said = told(data[: len(data) * 2 // 3])
    assert 0.5 < len(got) / 16000 < 2.9
    assert re.search(r"states 3\.\d s and \d\.\d s are there", said[-1])
    got, said = told(encoded_sound(speech_like(2), 16000, "ipod", "aac")[:-9])  # of the index, which says nothing of sound
    assert (len(got), said) == (32768 - 512, []) or len(got) > 31_000


@pytest.mark.parametrize("size", [0, 2_000_000_000, 0x7FFFF000, 0xFFFFFFFF])
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None])
def test_read_audio_of_unknown_length(size: int, riff: int | None) -> None:
    """A WAV that is written as it is made does not know its size; nothing is missing of it."""
    at = WAV.index(b"data") + 4
    data = WAV[:at] + size.to_bytes(4, "little") + WAV[at + 4 :]
    if riff is not None:
        data = data[:4] + riff.to_bytes(4, "little") + data[8:]
    np.testing.assert_array_equal(read_audio(data), read_audio(WAV))


def test_read_audio_of_live_streams(tmp_path: Path) -> None:
    """Fragments, and Matroska that states neither sizes nor a length."""
    whole = video_file(tmp_path / "a.mp4", "libx264", sound="aac", fragmented=True).read_bytes()
    got, _ = told(whole[: len(whole) * 2 // 3])
    assert 0.5 < len(got) / 16000 < 2.9
    out = io.BytesIO()
    with av.open(out, "w", format="webm", options={"live": "1"}) as container:
        encode_sound(container, container.add_stream("libopus", rate=48000, layout="mono"), speech_like(2, 48000), 48000)
    assert len(read_audio(out.getvalue())) == 32_000
    got, said = told(out.getvalue()[:-3000])
    assert (25_000 < len(got) < 32_000, said) == (True, [])


def test_read_audio_of_joined_files() -> None:
    """Clocks begin anew in what `cat` joined; all of it is heard."""
    for kind, data in {**FILES, "opus": sound_file(SIX, 16000, "OGG", "OPUS")}.items():
        if kind in ("mp3", "adts", "vorbis", "opus", "flac"):
            got, said = told(data * 2)
            assert abs(len(got) - 2 * len(SIX)) < 0.25 * 16000, kind
            assert said == [], kind


def track(container: str, codec: str, cuts: list[tuple[float, Wave]], rate: int, **options: str) -> bytes:
    """Pieces of a sound, each at its time in seconds."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        for time, wave in cuts:
            frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, round(time * rate), Fraction(1, rate)
            for packet in stream.encode(frame):
                file.mux(packet)
        file.mux(stream.encode(None))
    return out.getvalue()


def test_read_audio_puts_silence_into_holes() -> None:
    rng = np.random.default_rng(0)
    cuts, at = list[tuple[float, Wave]](), 0.0
    for i in range(50):
        at += rng.uniform(0, 0.4) if i else 0.7
        size = int(rng.integers(800, 6400))
        cuts.append((at, np.full(size, 0.1 + 0.01 * i, np.float32)))
        at += size / 16000
    data = track("matroska", "pcm_s16le", cuts, 16000)
    got = read_audio(data, origin=0.0)
    late = [np.flatnonzero(np.abs(got - wave[0]) < 0.004)[0] / 16000 - time for time, wave in cuts]
    assert np.abs(late).max() < 0.021
    part = read_audio(data, origin=0.0, start=3.25, end=7.5)
    np.testing.assert_array_equal(part, got[52_000:120_000])
    assert len(read_audio(data, start=100.0)) == 0
    assert read_audio(data)[0] != 0
    assert len(read_audio(data, origin=1.0)) == pytest.approx(len(got) - 16000, abs=320)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts", "flv"])
def test_read_audio_puts_silence_between_packets(kind: str) -> None:
    """A sound whose packets were moved: what was encoded in one row lies where the stamps say."""
    source = io.BytesIO(encoded_sound(SIX, 16000, "mp4", "aac"))
    want = read_audio(source.getvalue())
    out = io.BytesIO()
    with av.open(source) as file, av.open(out, "w", format=kind) as moved:
        stream = file.streams.audio[0]
        copy = moved.add_stream_from_template(stream)
        for i, packet in enumerate(file.demux(stream)):
            if packet.size:
                late = 16000 * (2 if i >= 30 else 0) + 8000 * (i >= 60)
                packet.pts, packet.dts, packet.stream = packet.pts + late + 1024, packet.dts + late + 1024, copy
                moved.mux(packet)
    got = read_audio(out.getvalue())
    first = len(got) - len(want) - 40_000  # of priming, where the container does not say that there is some
    assert first in range(1400)
    places = [(15_000, 0), (40_000, 32_000), (80_000, 40_000)]
    for at, late in places:
        begin = first + at + late
        errors = [np.abs(got[begin + lag : begin + lag + 3200] - want[at : at + 3200]).mean() for lag in range(-400, 401)]
        assert abs(int(np.argmin(errors)) - 400) <= 320
        assert min(errors) < 0.01
    assert not got[first + 31_000 : first + 31_000 + 30_000].any()


@pytest.mark.parametrize("late", [0, 95443.7 - 1])  # seconds: 33 bits of 90 kHz are over a second after the second of them
def test_read_audio_of_a_broadcast(late: float) -> None:
    wave = speech_like(3, 48000)
    cuts = [(late + at / 48000, wave[at : at + 1152]) for at in range(0, len(wave), 1152)]
    got = read_audio(track("mpegts", "mp2", cuts, 48000), rate=48000)
    assert abs(len(got) - len(wave)) <= 2 * 1152


def test_read_audio_hears_the_track_that_can_be_decoded() -> None:
    """A phone's spatial track has a codec that nobody knows; it may come first."""
    out, wave = io.BytesIO(), speech_like(1)
    with av.open(out, "w", format="mov") as file:
        streams = [file.add_stream(codec, rate=16000, layout="mono") for codec in ("pcm_s16be", "pcm_s16le")]
        for stream, gain in zip(streams, (0, 1), strict=True):
            frame = av.AudioFrame.from_ndarray((gain * wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    data = out.getvalue()
    assert not read_audio(data).any()
    assert read_audio(data.replace(b"twos", b"apac")).any()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_read_audio_lets_lossy_files_and_hairs_go_beyond_1(rate: int) -> None:
    loud = np.sign(speech_like(1, rate)) * np.float32(0.999)
    assert np.abs(read_audio(sound_file(loud, rate, "OGG", "VORBIS"))).max() > 1
    assert np.abs(read_audio((loud * np.float32(1.2), rate))).max() > 1


def test_read_audio_of_channels_that_cancel_each_other() -> None:
    wave = (speech_like(2) * 32767).astype(np.int16)
    for source in ((np.stack([wave, -wave], 1), 16000), sound_file(np.stack([wave, -wave], 1), 16000, "WAV")):
        np.testing.assert_array_equal(read_audio(source), wave / np.float32(32768))


def test_read_audio_keeps_only_what_it_returns() -> None:
    """Two minutes of stereo at 48 kHz are 46 MB as floats."""
    rate, minutes = 48000, 2
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, 2, "PCM_16", format="FLAC") as file:
        for _ in range(minutes * 60):
            file.write(np.zeros((rate, 2), np.int16))
    tracemalloc.start()
    wave = read_audio(out.getvalue())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == minutes * 60 * 16000
    assert most < 1.2 * wave.nbytes + 8e6


def test_reading_sound_needs_no_torch() -> None:
    """A server decodes in a process of its own, which is small."""
    code = "import sys, omni.encoders.waves, omni.encoders.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path.cwd())}).returncode == 0
