"""OpenAI's messages to omni's."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.streaming.audio.wire import encode_file
from omni.streaming.endpoints.chat_messages import Message, Spoken, to_omni
from omni.streaming.fields import Body
from omni.streaming.problems import Problem
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MEDIA, Scripted, data_url, hub_of


class Asked(Body):
    messages: list[Message]


PNG = (MEDIA / "scene.png").read_bytes()
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}

TOLD_CALL = {"type": "function", "function": CALL["function"]}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = hub_of(Scripted())
    yield hub
    hub.close()


def read(hub: Hub, messages: Any, spoken: Spoken | None = None, **looking: Any) -> list[dict[str, Any]]:
    return asyncio.run(to_omni(hub, Asked(messages=messages).messages, spoken or Spoken(), looking))


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def sound(data: bytes, name: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": name}}


# ---- text


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "system", "content": "Be short."}], [{"role": "system", "content": "Be short."}]),
        (
            [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]}],
            [{"role": "system", "content": "Be short."}],
        ),
        (
            [{"role": "user", "content": "Hello"}],
            [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "I may not."}]}],
            [{"role": "assistant", "content": "I may not."}],
        ),
        ([{"role": "assistant", "refusal": "No."}], [{"role": "assistant", "content": "No."}]),
        ([{"role": "assistant", "content": "", "annotations": []}], [{"role": "assistant", "content": ""}]),
        (
            [
                {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None, "audio": None},
                {"role": "tool", "tool_call_id": "call_1", "content": "2", "name": "f"},
            ],
            [
                {"role": "assistant", "content": "", "tool_calls": [TOLD_CALL]},
                {"role": "tool", "content": "2"},
            ],
        ),
        (
            [
                {"role": "assistant", "content": [], "function_call": {"name": "f", "arguments": '{"x": 1}'}},
                {"role": "function", "name": "f", "content": [{"type": "text", "text": "2"}]},
            ],
            [
                {"role": "assistant", "content": "", "tool_calls": [TOLD_CALL]},
                {"role": "tool", "content": "2"},
            ],
        ),
        (
            [
                {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "call_2", "index": 1}]},
                {"role": "tool", "tool_call_id": "call_2", "content": None},
                {"role": "tool", "tool_call_id": "call_1", "content": ["2", "3"]},
            ],
            [
                {"role": "assistant", "content": "", "tool_calls": [TOLD_CALL, TOLD_CALL]},
                {"role": "tool", "content": ""},
                {"role": "tool", "content": "23"},
            ],
        ),
        (
            [{"role": "user", "content": ["Hi ", {"type": "input_text", "text": "you"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]}],
        ),
        ([{"role": "user", "content": []}], [{"role": "user", "content": []}]),
        (
            [{"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}],
            [{"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}],
        ),
    ],
)
def test_what_is_told(hub: Hub, messages: Any, told: Any) -> None:
    assert read(hub, messages) == told


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_text_is_changed(hub: Hub, texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    assert read(hub, user(*parts)) == user(*parts)
    for role in ("system", "assistant"):
        assert read(hub, [{"role": role, "content": parts}]) == [{"role": role, "content": "".join(texts)}]


# ---- media


VIDEO: Any = {
    "total_pixels": 50000, "resized_height": 56, "resized_width": 84, "nframes": 4, "min_frames": 2, "video_start": 1,
    "raw_fps": 30,
}  # fmt: skip
VIDEO_TOLD = {
    "total_pixels": 50000, "resized_height": 56, "resized_width": 84, "num_frames": 4, "min_frames": 2, "start": 1,
}  # fmt: skip


def test_media_come_as_bytes(hub: Hub) -> None:
    wave = (0.1 * np.sin(np.arange(8000) / 10)).astype(np.float32)
    wav, mp3 = encode_file("wav", wave, 24000), encode_file("mp3", wave, 24000)
    clip = (MEDIA / "clip.mp4").read_bytes()
    (told,) = read(
        hub,
        user(
            {"type": "text", "text": "Look:", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "image_url", "image_url": {"url": data_url("scene.png", "image/png"), "detail": "low"}},
            sound(wav),
            sound(mp3, "mp3"),
            {"type": "audio_url", "audio_url": {"url": data_url("where.ogg", "audio/ogg")}},
            {"type": "video_url", "video_url": data_url("clip.mp4", "video/mp4"), "fps": 4, "use_audio_in_video": True},
            {"type": "video_url", "video_url": data_url("clip.mp4", "video/mp4"), **VIDEO},
            {**sound(wav), "audio_start": 0.1, "end": 0.3},
            {"type": "input_image", "image_url": data_url("scene.png", "image/png"), "detail": "auto", "max_pixels": 5000},
        ),
        fps=2.0,
        max_pixels=9000,
    )
    assert told["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image", "image": PNG, "max_pixels": 9000},
        {"type": "audio", "audio": wav},
        {"type": "audio", "audio": mp3},
        {"type": "audio", "audio": (MEDIA / "where.ogg").read_bytes()},
        {"type": "video", "video": clip, "fps": 4, "max_pixels": 9000, "audio_in_video": True},
        {"type": "video", "video": clip, "fps": 2.0, "max_pixels": 9000, **VIDEO_TOLD},
        {"type": "audio", "audio": wav, "start": 0.1, "end": 0.3},
        {"type": "image", "image": PNG, "max_pixels": 5000},
    ]


def test_files_of_the_folder_that_is_open(hub: Hub) -> None:
    hub = hub_of(Scripted(), Settings(media_folder=MEDIA))
    try:
        (told,) = read(hub, user(picture(f"file://{MEDIA}/scene.png")))
    finally:
        hub.close()
    assert told["content"] == [{"type": "image", "image": PNG}]


@pytest.mark.parametrize(
    ("part", "param", "status", "code"),
    [
        (picture(str(MEDIA / "scene.png")), "image_url.url", 400, "invalid_media"),
        (picture(f"file://{MEDIA}/scene.png"), "image_url.url", 400, "invalid_media"),
        (picture("scene.png"), "image_url.url", 400, "invalid_media"),
        (picture(""), "image_url.url", 400, "invalid_media"),
        (picture("https://example.com/a.png"), "image_url.url", 400, "invalid_media"),
        (picture("http://169.254.169.254/"), "image_url.url", 400, "invalid_media"),
        (picture("data:image/png;base64,AAAA"), "image_url.url", 400, "invalid_media"),
        (picture("data:image/png;base64,A"), "image_url.url", 400, "invalid_base64"),
        (picture(data_url("where.ogg", "image/png")), "image_url.url", 400, "invalid_media"),
        (sound(PNG), "input_audio.data", 400, "invalid_media"),
        (sound(b""), "input_audio.data", 400, "invalid_media"),
        (sound(b"RIFF" * 3), "input_audio.data", 400, "invalid_media"),
        (sound(bytes(33 << 20)), "input_audio.data", 413, "media_too_large"),
        ({"type": "input_audio", "input_audio": {"data": "file.wav", "format": "wav"}}, "input_audio.data", 400,
         "invalid_base64"),
    ],
)  # fmt: skip
def test_media_that_are_refused(hub: Hub, part: Any, param: str, status: int, code: str) -> None:
    with pytest.raises(Problem) as caught:
        read(hub, user({"type": "text", "text": "Look:"}, part))
    problem = caught.value
    assert (problem.param, problem.status, problem.code) == (f"messages[0].content[1].{param}", status, code)
    assert param in problem.message


def test_media_are_counted_before_any_is_fetched(hub: Hub) -> None:
    with pytest.raises(Problem, match="33 pictures, clips and sounds; 32 are allowed"):
        read(hub, [*user(*[picture("https://example.com/a.png")] * 32), *user(sound(b""))])


def test_all_media_of_a_request_together_are_bounded(hub: Hub) -> None:
    small = replace(hub, settings=Settings(limits=Limits(body_bytes=2 * len(PNG) + 1)))
    one = picture(data_url("scene.png", "image/png"))
    try:
        assert len(read(small, user(one, one))[0]["content"]) == 2
        with pytest.raises(Problem) as caught:
            read(small, user(one, one, one))
    finally:
        small.close()
    assert (caught.value.status, caught.value.param) == (413, "messages[0].content[2].image_url.url")


# ---- bounds


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([], "messages", "invalid_value"),
        ([{"role": "user", "content": "x"}] * 2001, "messages", "invalid_value"),
        ([{"role": "user", "content": "\u2603" * (16 * 32768 // 3 + 1)}], "messages", "context_length_exceeded"),
        ([{"role": "assistant"}], "messages[0].content", "invalid_value"),
        ([{"role": "tool", "tool_call_id": "call_1", "content": "2"}], "messages[0].tool_call_id", "invalid_value"),
    ],
)
def test_messages_that_are_refused(hub: Hub, messages: Any, param: str, code: str) -> None:
    with pytest.raises(Problem) as caught:
        read(hub, messages)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize("arguments", ["5", "null", "[1]", "{", "[" * 100_000])
def test_arguments_are_objects(hub: Hub, arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ValueError, match=r"give a JSON object as a string|nested more than 64 deep"):
        read(hub, [{"role": "assistant", "tool_calls": [call]}])


# ---- what was spoken before


def test_spoken_answers_are_known_by_their_ids(hub: Hub) -> None:
    spoken = Spoken()
    first, second = spoken.new_id(), spoken.new_id()
    spoken.keep(first, "One."), spoken.keep(second, "Two.")
    audio = {"id": second, "data": "", "expires_at": 5, "transcript": "what the client says it was"}
    messages = [{"role": "assistant", "audio": {"id": first}}, {"role": "assistant", "content": None, "audio": audio}]
    assert [told["content"] for told in read(hub, messages, spoken)] == ["One.", "Two."]


def test_unknown_and_old_answers_are_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = Spoken(most=2, seconds=60)
    ids = [spoken.new_id() for _ in range(3)]
    assert len(set(ids)) == 3 and all(len(spoken_id) > 32 for spoken_id in ids)
    for spoken_id in ids:
        expires_at = spoken.keep(spoken_id, "Yes.")
    assert [read(hub, [{"role": "assistant", "audio": {"id": i}}], spoken)[0]["content"] for i in ids[1:]] == ["Yes."] * 2
    monkeypatch.setattr(time, "time", lambda: expires_at + 1)
    for spoken_id in (*ids, "audio_unknown"):
        with pytest.raises(Problem) as caught:
            read(hub, [{"role": "assistant", "audio": {"id": spoken_id}}], spoken)
        assert (caught.value.param, caught.value.code) == ("messages[0].audio.id", "audio_not_found")
