"""The fields of a media part: every spelling, what comes twice, and what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from omni.encoders.sources import DEFAULT_BUDGET, opened
from omni.errors import MediaError, MessageError
from omni.prompt.parts import settings_of, source_of

LIST = [object()]


@pytest.mark.parametrize(
    ("kind", "fields", "want"),
    [
        ("video", {"nframes": 8}, {"num_frames": 8}),
        ("video", {"video_start": 1.5, "video_end": 4}, {"start": 1.5, "end": 4}),
        ("video", {"use_audio_in_video": False}, {"audio_in_video": False}),
        ("video", {"total_pixels": 10_000, "max_pixels": 9}, {"total_pixels": 10_000, "max_pixels": 9}),
        ("video", {"video": LIST, "sample_fps": 4.0, "raw_fps": 30}, {"fps": 4.0, "raw_fps": 30}),
        ("video", {"resized_height": 280, "resized_width": 420.0}, {"resized": (280, 420)}),
        ("image", {"resized_height": 280, "resized_width": 420}, {"resized": (280, 420)}),
        ("audio", {"audio_start": 1, "audio_end": 2.5}, {"start": 1, "end": 2.5}),
        ("video", {"fps": 2, "nframes": None, "start": None, "whatever": None}, {"fps": 2}),
        ("video", {"start": 2.0, "video_start": 2}, {"start": 2.0}),
        ("image", {"detail": "high", "uuid": "7", "cache_control": {"type": "ephemeral"}, "format": "png"}, {}),
    ],
)  # fmt: skip
def test_every_spelling(kind: str, fields: dict[str, Any], want: dict[str, Any]) -> None:
    assert settings_of({"type": kind, kind: "a", **fields}, kind, "here") == want


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("video", {"max_frame": 8}, "unknown field 'max_frame'; the nearest that is known is 'max_frames'"),
        ("video", {"audio_strat": 1}, "'audio_strat'; the nearest that is known is '.*start"),
        ("image", {"fps": 1}, "unknown field 'fps'"),
        ("image", {"max_pixel": 1}, "'max_pixels'"),
        ("audio", {"video_start": 1}, "'audio_start'"),
        ("video", {"start": 1, "video_start": 2}, "start 1 and video_start 2, which are the same; give one"),
        ("video", {"fps": 1, "sample_fps": 2, "video": LIST}, "fps 1 and sample_fps 2"),
        ("video", {"sample_fps": 2}, "for a file give fps"),
        ("video", {"nframes": "8"}, "nframes is '8'; give a number"),
        ("video", {"video_end": float("nan")}, "video_end is nan"),
        ("video", {"use_audio_in_video": "no"}, "use_audio_in_video is 'no'; give true or false"),
        ("image", {"resized_height": 280}, "give both"),
        ("video", {7: 1}, "unknown field '7'"),
    ],
)
def test_what_is_wrong(kind: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageError, match=f"here.*{says}"):
        settings_of({"type": kind, kind: "a", **fields}, kind, "here")


def test_unknown_fields_beside_a_url() -> None:
    assert source_of({"image_url": {"url": "a", "detail": "low"}}, "image", "here") == "a"
    with pytest.raises(
        MessageError, match=r"here\.video_url has an unknown field 'urn'; the nearest that is known is 'url'"
    ):
        source_of({"video_url": {"urn": "a"}}, "video", "here")


DATA = bytes(range(250, 256)) + b"o"


@pytest.mark.parametrize("text", ["+vv8/f7/bw==", "+vv8/f7/bw", "-vv8_f7_bw==", "+vv8\r\n/f7/\nbw==\n"])
def test_base64_as_people_write_it(text: str) -> None:
    assert source_of({"input_audio": {"data": text, "format": "wav"}}, "audio", "here") == DATA
    url = f"data:audio/wav;base64,{text}"
    assert source_of({"input_audio": {"data": url}}, "audio", "here") == url
    with opened(url, DEFAULT_BUDGET) as media:
        assert media.file.read() == DATA


@pytest.mark.parametrize("text", ["a", "ab=c", "ab===", "\u20ac", "a*bc"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(MessageError, match=r"input_audio\.data is not base64"):
        source_of({"input_audio": {"data": text}}, "audio", "here")
    with pytest.raises(MediaError, match="damaged base64"), opened(f"data:audio/wav;base64,{text}", DEFAULT_BUDGET):
        pass
