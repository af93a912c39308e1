"""Files that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from PIL import Image

from omni.encoders.media import Budget, frame_indices, read_audio, read_image, read_video
from omni.encoders.sources import digest_of
from omni.errors import MediaError, MediaLimitError, OptionError
from tests.encoders.samples import Wave, encoded_sound, grey_level, sound_file, speech_like, video_file

VIDEOS = [
    ("a.mp4", "libx264", "aac"), ("b.mp4", "mpeg4", None), ("c.mkv", "libx264", "libopus"), ("d.webm", "libvpx", None),
    ("e.webm", "libvpx-vp9", "libopus"), ("f.avi", "mpeg4", None),
]  # fmt: skip


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants(height: int = 34, width: int = 46) -> npt.NDArray[np.uint8]:
    """Four colours, so that every turn and flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 20)
    pixels[: height // 2, width // 2 :] = (20, 240, 30)
    pixels[height // 2 :, : width // 2] = (10, 30, 230)
    pixels[height // 2 :, width // 2 :] = (240, 240, 240)
    return pixels


def levels(frames: torch.Tensor) -> list[int]:
    """Which frame of a test video each one is."""
    known = torch.tensor([grey_level(i) for i in range(32)])
    return [int((frame.float().mean() - known).abs().argmin()) for frame in frames]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG"])
def test_read_image_from_everywhere(kind: str, tmp_path: Path) -> None:
    pixels = quadrants()
    data = picture_file(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "a picture.bin"
    path.write_bytes(data)
    for source in (path, str(path), path.as_uri(), data, data_url(data), Image.open(io.BytesIO(data))):
        image = read_image(source)
        assert image.mode == "RGB"
        difference = np.abs(np.asarray(image).astype(int) - pixels)
        assert difference.max() == 0 if kind != "JPEG" else difference.mean() < 10


def test_read_image_from_an_array() -> None:
    pixels = quadrants()
    assert np.array_equal(np.asarray(read_image(pixels)), pixels)
    assert np.array_equal(np.asarray(read_image(pixels[::-1, ::2])), pixels[::-1, ::2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_is_upright(orientation: int) -> None:
    upright = quadrants()
    # what a camera stores, by the EXIF standard's table of where row 0 and column 0 are
    turned = upright.transpose(1, 0, 2) if orientation > 4 else upright
    rows = -1 if orientation in (3, 4, 7, 6) else 1
    columns = -1 if orientation in (2, 3, 7, 8) else 1
    stored = np.ascontiguousarray(turned[::rows, ::columns])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(read_image(picture_file(Image.fromarray(stored), exif=exif))), upright)


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("RGBA", (3, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (3, 2), (200, 0, 100, 51)), (244, 204, 224)),  # a fifth of the colour
        (Image.new("LA", (3, 2), (0, 51)), (204, 204, 204)),
        (Image.new("L", (3, 2), 77), (77, 77, 77)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (3, 2), (9, 8, 7)).quantize(4), (9, 8, 7)),
        (Image.new("I;16", (3, 2), 0x12FF), (0x12, 0x12, 0x12)),
        (Image.new("I", (3, 2), 0xFF00), (255, 255, 255)),
    ],
    ids=lambda x: x.mode if isinstance(x, Image.Image) else None,
)
def test_read_image_of_every_mode(image: Image.Image, want: tuple[int, int, int]) -> None:
    for source in (image, picture_file(image, "TIFF" if image.mode == "I" else "PNG")):
        assert np.abs(np.asarray(read_image(source)).astype(int) - want).max() <= 1


def test_read_image_of_a_transparent_palette() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert read_image(picture_file(image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(picture_file(image, transparency=bytes([0, 255]))).getpixel((0, 0)) == (0, 255, 0)


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]


PNG = picture_file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"just text, no picture", "no picture that can be read"),
        (b"", r"empty \(0 bytes\)"),
        (PNG[: len(PNG) // 2], "cut short"),
        (PNG[:20], "no picture|cut short"),
        (damaged(PNG), "damaged"),
        (picture_file(Image.fromarray(quadrants(400, 400)), "JPEG")[:900], "cut short"),
        ("/no/such/picture.png", "'/no/such/picture.png' cannot be opened: No such file"),
        ("nul\0.png", "cannot be opened"),
        ("https://example.com/cat.png", "https://example.com/cat.png is not fetched; download it first"),
        ("data:image/png;base64,@@@", "damaged base64"),
        ("data:image/png,abc", "data:TYPE;base64,DATA"),
        ("data:", "data:TYPE;base64,DATA"),
        ("data:image/png;base64,", "empty"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "nothing to see"),
        (Image.new("F", (4, 4)), "floats of unknown range"),
        (Image.new("I", (4, 4), 70_000), "beyond 16 bits"),
        (12, "an? int is no media"),
        (None, "NoneType"),
    ],
)
def test_read_image_says_what_is_wrong(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_image(source)


@pytest.mark.parametrize("read", [read_image, read_audio, read_video])
def test_paths_that_are_no_files(read: Callable[[Any], object], tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello\n" * 50)
    empty = tmp_path / "empty.wav"
    empty.touch()
    for path, message in (
        (text, "text.png"), (empty, "empty.wav is empty"), (tmp_path, "is a directory"), (tmp_path / "none", "No such file"),
        (Path("/dev/zero"), "not a regular file"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=message):
            read(path)


def test_read_image_within_the_budget() -> None:
    image = Image.new("RGB", (100, 80))
    data = picture_file(image)
    assert read_image(data, Budget(max_pixels=8000, max_bytes=len(data))).size == (100, 80)
    for source in (data, image, np.asarray(image), data_url(data)):
        with pytest.raises(MediaLimitError, match="100 x 80 pixels and the budget is 7999"):
            read_image(source, Budget(max_pixels=7999))
    for source in (data, data_url(data)):
        with pytest.raises(MediaLimitError, match=f"{len(data)} bytes and the budget is {len(data) - 1}"):
            read_image(source, Budget(max_bytes=len(data) - 1))


@pytest.mark.parametrize("side", [9_500, 14_000, 60_000])
def test_read_image_of_a_bomb(side: int) -> None:
    """A few bytes that claim to be a huge picture: Pillow warns of the first, refuses the others; nothing is decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + bytes(4)
    data = data[:-4] + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 4) + b"IDAT" + bytes(8)
    with pytest.raises(MediaLimitError, match="pixels"):
        read_image(data)


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


WAV = sound_file(speech_like(2), 16000, "WAV", "PCM_16")
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


@pytest.mark.parametrize(
    ("total", "rate", "options", "want"),
    [
        (30, 10, {}, [0, 6, 12, 17, 23, 29]),  # 3 s at 2 a second; steps of 5.8
        (250, 25, {"num_frames": 2}, [0, 249]),
        (10, 10, {}, [0, 3, 6, 9]),  # 2 frames become min_frames
        (3, 10, {}, [0, 2]),  # no more than there are, and even
        (100, 10, {"max_frames": 5}, [0, 33, 66, 99]),
        (10, 10, {"min_frames": 5}, [0, 2, 4, 5, 7, 9]),  # min rounds up to 6
        (9, 1, {"num_frames": 3}, [0, 3, 5, 8]),  # 1.5 rounds to the even 2; 2.67 and 5.33
        (6, 1, {"num_frames": 5, "fps": 9}, [0, 2, 3, 5]),  # 2.5 rounds to the even 2, so 4: 1.67 and 3.33
        (5, 1, {"num_frames": 8}, [0, 1, 2, 3, 4]),  # at most all
        (12, 1, {"num_frames": 4, "start": 1, "end": 8.9}, [1, 3, 6, 8]),  # 3.33 and 5.67
        (6, 1, {"num_frames": 2, "start": 0.5}, [1, 5]),
        (11, 1, {"num_frames": 4, "end": 99}, [0, 3, 7, 10]),
        (2, 30, {}, [0, 1]),
    ],
)
def test_frame_indices_by_hand(total: int, rate: float, options: dict[str, Any], want: list[int]) -> None:
    assert frame_indices(total, rate, **options) == want


def test_frame_indices_round_half_to_even() -> None:
    assert frame_indices(6, 1, num_frames=3) == [0, 2, 3, 5]
    assert frame_indices(14, 1, num_frames=3, start=0) == [0, 4, 9, 13]
    # 0, 7.5, ... is not reachable with two ends; an inner half is: 0, 2.5, 5, ... of eleven frames in five steps
    assert torch.linspace(0, 5, 3).round().tolist() == [0, 2, 5]


@pytest.mark.parametrize("options", [{}, {"num_frames": 4}, {"start": 0.7}])
def test_frame_indices_needs_two(options: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="at least 2"):
        frame_indices(1, 1, **options)


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS)
def test_read_video(name: str, codec: str, sound: str | None, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, codec, sound=sound)
    for source in (path, str(path), path.read_bytes(), data_url(path.read_bytes(), "video/mp4")):
        clip = read_video(source)
        assert clip.frames.dtype == torch.uint8
        assert clip.frames.shape == (6, 3, 48, 66)
        assert levels(clip.frames) == [0, 6, 12, 17, 23, 29]
        assert clip.times == pytest.approx([0, 0.6, 1.2, 1.7, 2.3, 2.9], abs=1e-3)
        assert clip.fps == pytest.approx(2.0)
        assert clip.has_audio == (sound is not None)


def test_read_video_of_a_part(tmp_path: Path) -> None:
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 64))
    clip = read_video(path, start=0.55, end=1.5, num_frames=4)
    assert levels(clip.frames) == [6, 9, 12, 15]
    assert clip.times == pytest.approx([0.6, 0.9, 1.2, 1.5])
    assert clip.fps == pytest.approx(4.0)
    assert levels(read_video(path, fps=10).frames) == list(range(30))
    with pytest.raises(MediaError, match=r"a\.mp4: 0 frames"):
        read_video(path, start=2, end=1)


@pytest.mark.parametrize(("stated", "end"), [(9, None), (60, None), (60, 9.0), (40, 2.0)])
def test_read_video_counts_where_the_container_lies(stated: int, end: float | None, tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.avi", "mpeg4").read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert struct.unpack("<I", data[at : at + 4]) == (30,)
    clip = read_video(data[:at] + struct.pack("<I", stated) + data[at + 4 :], num_frames=4, end=end)
    assert levels(clip.frames) == ([0, 7, 13, 20] if end == 2.0 else [0, 10, 19, 29])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_read_video_is_upright(degrees: int, tmp_path: Path) -> None:
    pixels = quadrants(48, 64)
    path = video_file(tmp_path / "a.mp4", "libx264", size=(64, 48), frames=[pixels] * 4, rotation=degrees)
    want = np.rot90(pixels, degrees // 90)  # counter-clockwise, as FFmpeg has it
    frame = read_video(path).frames[0].permute(1, 2, 0).numpy()
    assert frame.shape == want.shape
    centre = (slice(6, None, 12), slice(6, None, 12))  # away from the edges that chroma blurs
    assert np.abs(frame[centre].astype(int) - want[centre]).max() < 12


@pytest.mark.parametrize(("flip", "matrix"), [((1, -1), (-1, 0, 0, 1)), ((-1, 1), (1, 0, 0, -1))])
def test_read_video_is_not_mirrored(flip: tuple[int, int], matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    pixels = quadrants(48, 64)
    data = video_file(tmp_path / "a.mp4", "libx264", size=(64, 48), frames=[pixels] * 4).read_bytes()
    one = 1 << 16
    plain = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b"tkhd"))
    a, b, c, d = (x * one for x in matrix)
    turned = data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]
    frame = read_video(turned).frames[0].permute(1, 2, 0).numpy()
    want = pixels[:: flip[0], :: flip[1]]
    assert np.abs(frame[6::12, 6::12].astype(int) - want[6::12, 6::12]).max() < 12


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS[:5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_read_video_cut_short(name: str, codec: str, sound: str | None, share: float, tmp_path: Path) -> None:
    data = video_file(tmp_path / name, codec, sound=sound).read_bytes()
    with pytest.raises(MediaError, match="cut short"):
        read_video(data[: int(share * len(data))])


def test_read_video_in_fragments(tmp_path: Path) -> None:
    data = video_file(tmp_path / "a.mp4", "libx264", sound="aac", fragmented=True).read_bytes()
    assert levels(read_video(data).frames) == [0, 6, 12, 17, 23, 29]
    with pytest.raises(MediaError, match="cut short"):
        read_video(data[: 6 * len(data) // 10])


def test_read_video_damaged(tmp_path: Path) -> None:
    data = bytearray(video_file(tmp_path / "a.mp4", "libx264").read_bytes())
    at = data.index(b"mdat") + 4
    data[at + 700 :] = bytes(len(data) - at - 700)
    with pytest.raises(MediaError, match=r"cannot be decoded|damaged"):
        read_video(bytes(data))


@pytest.mark.parametrize("count", [3, 4])
def test_read_video_of_pictures(count: int, tmp_path: Path) -> None:
    arrays = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(count)]
    path = tmp_path / "0.png"
    Image.fromarray(arrays[0]).save(path)
    clip = read_video([path, Image.fromarray(arrays[1]), *arrays[2:]], fps=4)
    assert clip.frames.shape == (4, 3, 20, 30)
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 40, 80, min(120, 40 * (count - 1))]
    assert list(clip.times) == [0, 0.25, 0.5, 0.75]
    assert (clip.fps, clip.has_audio) == (4, False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "empty"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "frame 1 is 5 x 4 and the first is 4 x 4"),
        (["/no/such.png"], "No such file"),
        (WAV, "no moving pictures"),
        (b"RIFF" * 200, "cannot be decoded"),
        (b"\x1aE\xdf\xa3", "cut short"),
        (b"\0\0\0\x08ftyp", "cannot be decoded"),
        ("https://example.com/a.mp4", "download it first"),
    ],
)
def test_read_video_says_what_is_wrong(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_video(source)


def test_read_video_of_one_frame(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.mp4: 1 frames .* at least 2"):
        read_video(video_file(tmp_path / "a.mp4", "libx264", count=1))


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1.0}, {"num_frames": 1}, {"max_frames": 1}, {"min_frames": 0}])
def test_read_video_refuses_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        read_video("never opened", **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_frames=29), "budget is 29"),
        (Budget(max_pixels=66 * 48 - 1), "66 x 48 pixels"),
        (Budget(max_seconds=2.5), "2.5 s"),
        (Budget(max_clip_bytes=6 * 3 * 66 * 48 - 1), "6 frames of 66 x 48"),
        (Budget(max_bytes=500), "budget is 500"),
    ],
)
def test_read_video_within_the_budget(name: str, budget: Budget, message: str, tmp_path: Path) -> None:
    path = video_file(tmp_path / name, "libx264")
    with pytest.raises(MediaLimitError, match=message):
        read_video(path, budget=budget)
    exact = Budget(path.stat().st_size, 66 * 48, 30, 3.0, 6 * 3 * 66 * 48)
    assert len(read_video(path, budget=exact).times) == 6


def test_digest_of_tells_apart_what_reading_would() -> None:
    wave, pixels = np.linspace(-1, 1, 64, dtype=np.float32), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    turned = Image.fromarray(pixels)
    turned.info["exif"] = b"turned"
    known = [
        b"a file",
        "data:audio/wav;base64,AAAA",
        pixels,
        pixels[::-1],
        pixels.reshape(2, 8, 3),
        Image.fromarray(pixels),
        Image.fromarray(pixels[::-1].copy()),
        (wave, 16000),
        (wave, 24000),
        (wave * 0.5, 16000),
        (wave.astype(np.float64), 16000),
        [pixels, pixels],
        [pixels],
        [b""],
    ]
    digests = [digest_of(source) for source in known]
    assert None not in digests
    assert len(set(digests)) == len(known)
    assert digest_of((wave.copy(), 16000)) == digest_of((wave, 16000))
    unknown = [
        "path.wav",
        Path("path.wav"),
        turned,
        Image.new("P", (2, 2)),
        (wave, "16000"),
        np.array([object()]),
        None,
        [b"", 7],
        [],
    ]
    assert [digest_of(source) for source in unknown] == [None] * len(unknown)
