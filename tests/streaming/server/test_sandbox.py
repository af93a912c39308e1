"""What comes out of the process that decodes is what decoding here gives, and a process that lies is believed nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni import Budget
from omni.encoders.clips import open_clip
from omni.encoders.decoder import Here
from omni.encoders.pictures import ImageSource, read_image
from omni.encoders.sampling import Sampling
from omni.encoders.waves import read_audio
from omni.errors import CapacityError, MediaError, MediaLimitError
from omni.streaming.problems import Problem
from omni.streaming.server.sandbox import WORKERS, Sandbox, Upload
from omni.streaming.server.tasks import head_bytes
from omni.streaming.settings import Limits
from tests.encoders.samples import sound_file, speech_like
from tests.streaming.files import clip, picture, sound

BUDGET = Budget(max_pixels=100_000, max_frames=500, max_seconds=20)
CLIP = clip("mp4", frames=23, fps=7, tone=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(Limits(decode_seconds=10))
    yield sandbox
    sandbox.close()


def test_a_picture_is_the_same(sandbox: Sandbox) -> None:
    for data in (picture("JPEG", width=61, height=47), picture("PNG", frames=2)):
        told, here = list[str](), list[str]()
        got = sandbox.picture(data, BUDGET, told.append)
        assert np.array_equal(np.asarray(got), np.asarray(read_image(data, tell=here.append)))
        assert (got.mode, told) == ("RGB", here)


@pytest.mark.parametrize(
    "cut", [{}, {"origin": 0.25, "start": 0.1, "end": 0.7}, {"start": 100.0}, {"origin": -0.5, "end": 1.0}]
)
def test_a_sound_is_the_same(sandbox: Sandbox, cut: dict[str, Any]) -> None:
    for data in (sound_file(speech_like(1.3), 22050, "OGG", "VORBIS"), sound(seconds=2.0)[:-3000], CLIP):
        told, here = list[str](), list[str]()
        got = sandbox.sound(data, 16000, BUDGET, told.append, **cut)
        np.testing.assert_array_equal(got, read_audio(data, 16000, tell=here.append, **cut))
        assert got.dtype == np.float32
        assert told == here


@pytest.mark.parametrize("asked", [Sampling(), Sampling(fps=9.5), Sampling(num_frames=6, start=0.5, end=2.1)])
def test_a_clip_is_the_same(sandbox: Sandbox, asked: Sampling, tmp_path: Path) -> None:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(CLIP)
    for source in (CLIP, path, clip("webm", "libvpx")[:-7]):
        told, here = list[str](), list[str]()
        with sandbox.clip(source, asked, BUDGET, told.append) as got, open_clip(source, asked, tell=here.append) as want:
            facts = [(c.times, c.fps, c.asked, c.constant, c.has_audio, c.origin, c.clock()) for c in (got, want)]
            assert facts[0] == facts[1]
            frames, others = list(got.frames), list(want.frames)
        assert all(map(np.array_equal, frames, others)) and len(frames) == len(others) == len(got.times)
        again = [[after is before for before, after in pairwise(each)] for each in (frames, others)]
        assert again[0] == again[1]
        assert told == here


def test_what_has_no_file_is_taken_as_it_is(sandbox: Sandbox) -> None:
    pixels, wave = np.full((5, 7, 3), 9, np.uint8), speech_like(0.5)
    assert np.array_equal(np.asarray(sandbox.picture(pixels, BUDGET, print)), pixels)
    assert np.array_equal(sandbox.sound((wave, 16000), 16000, BUDGET, print), wave)
    frames: list[ImageSource] = [pixels, picture("PNG", width=7, height=5)]
    with sandbox.clip(frames, Sampling(), BUDGET, print) as got, Here().clip(frames, Sampling(), BUDGET, print) as want:
        assert all(map(np.array_equal, got.frames, want.frames))
    assert not any(worker._process for worker in Sandbox(Limits())._workers)


def test_a_clip_that_is_left_gives_its_worker_back(sandbox: Sandbox) -> None:
    for _ in range(WORKERS + 1):
        with sandbox.clip(CLIP, Sampling(), BUDGET, print) as film:
            next(film.frames)
    assert sandbox.picture(picture(), BUDGET, print).mode == "RGB"


def test_an_upload_is_refused_by_its_field(sandbox: Sandbox) -> None:
    with pytest.raises(MediaError) as caught:
        sandbox.picture(Upload(b"\x89PNG" + bytes(90), "messages[3]"), BUDGET, print)
    assert isinstance(problem := caught.value.__cause__, Problem)
    assert (problem.status, problem.param) == (400, "messages[3]")
    with pytest.raises(MediaLimitError, match="pixels") as caught:
        sandbox.picture(picture(width=500, height=400), BUDGET, print)
    assert caught.value.__cause__ is None


HUGE = head_bytes({"picture": [1 << 20, 1 << 20]})
LIES = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\2\0\0\0[]",
    b"\3\0\0\0nul",
    head_bytes({"picture": [0, 5]}),
    head_bytes({"picture": ["5", 5]}),
    head_bytes({"picture": [-5, -5]}),
    HUGE,
    head_bytes({"sound": 1 << 50}),
    head_bytes({"sound": -1}),
    head_bytes({"sound": 2}) + np.array([0, np.nan], np.float32).tobytes() + head_bytes({"done": 1}),
    head_bytes({"clip": 1 << 40}),
    head_bytes({"clip": 0}),
    head_bytes({"clip": 1, "fps": "2", "origin": 0.0}) + bytes(8),
    head_bytes({"clip": 2, "fps": 2.0, "origin": 0.0}) + np.array([1.0, 0.0]).tobytes(),
    head_bytes({"clip": 1, "fps": 2.0, "origin": 0.0}) + bytes(8) + head_bytes({"again": 1}),
    head_bytes({"clip": 1, "fps": 2.0, "origin": 0.0}) + bytes(8) + HUGE,
    head_bytes({"told": "a"}) * 30,
    head_bytes({"told": "a" * 1000}),
    head_bytes({"refused": "no"}),
    head_bytes({"done": 1}),
    b"[" * 5000,
]


def ask(sandbox: Sandbox, kind: str) -> None:
    match kind:
        case "clip":
            with sandbox.clip(CLIP, Sampling(), BUDGET, print) as film:
                list(film.frames)
        case "sound":
            sandbox.sound(CLIP, 16000, BUDGET, print)
        case _:
            sandbox.picture(picture(), BUDGET, print)


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_a_worker_that_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lie: bytes) -> None:
    """One error, whatever is asked, and nothing is made by its word."""
    liar = tmp_path / "liar.py"
    liar.write_text(f"import sys\nsys.stdout.buffer.write({lie!r})\nsys.stdout.flush()\nsys.stdin.buffer.read(9)\n")
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: popen([sys.executable, "-S", str(liar)], **how))
    sandbox = Sandbox(Limits(decode_seconds=5))
    try:
        with pytest.raises(MediaError, match="breaks its decoder"):
            ask(sandbox, "clip" if b"clip" in lie else "sound" if b"sound" in lie else "picture")
    finally:
        sandbox.close()


def test_who_waits_when_the_server_ends() -> None:
    sandbox = Sandbox(Limits(decode_seconds=30))
    held = [sandbox._free.get() for _ in range(WORKERS)]
    said: list[Exception] = []

    def wait() -> None:
        try:
            sandbox.picture(picture(), BUDGET, print)
        except CapacityError as e:
            said.append(e)

    waiting = threading.Thread(target=wait)
    waiting.start()
    ending = threading.Thread(target=sandbox.close)
    ending.start()
    for worker in held:
        sandbox._free.put(worker)
    waiting.join(20)
    ending.join(20)
    assert len(said) == 1 and not waiting.is_alive() and not ending.is_alive()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (sound_file(np.zeros(2000, np.float32), 655_350, "FLAC"), "sample rate of 655350 Hz"),
        (sound_file(np.zeros(2000, np.float32), 1, "WAV"), "sample rate of 1 Hz"),
        (sound_file(np.zeros((200, 100), np.float32), 16000, "WAV"), "100 channels"),
    ],
)
def test_what_no_recording_states(sandbox: Sandbox, data: bytes, said: str) -> None:
    for hear in (sandbox.sound, Here().sound):
        with pytest.raises(MediaLimitError, match=said):
            hear(data, 16000, Budget(), print)


def test_a_side_that_is_too_long(sandbox: Sandbox) -> None:
    vast = picture("PNG", width=1, height=70_000)
    for see in (sandbox.picture, Here().picture):
        with pytest.raises(MediaLimitError, match="a side may be"):
            see(vast, Budget(), print)
    with pytest.raises(MediaLimitError, match="a side may be"):
        read_image(Image.new("RGB", (70_000, 1)))
