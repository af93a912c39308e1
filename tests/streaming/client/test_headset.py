"""Microphone and loudspeaker, with a sound library that stands in for one: no machine of ours has either."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from omni.errors import InputError
from omni.streaming.client.headset import Headset


class PortAudioError(Exception):
    pass


class Stream:
    """Hands over blocks when told to, as PortAudio's thread would."""

    def __init__(self, rate: int, *, channels: int, dtype: str, callback: Any) -> None:
        assert (rate, channels, dtype) == (24000, 1, "float32")
        self.callback, self.state = callback, "new"

    def start(self) -> None:
        self.state = "started"

    def stop(self) -> None:
        self.state = "stopped"

    def close(self) -> None:
        self.state = "closed"

    def turn(self, block: np.ndarray) -> np.ndarray:
        self.callback(block, len(block), None, None)
        return block


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("sounddevice")
    module.OutputStream = module.InputStream = Stream
    module.PortAudioError = PortAudioError
    monkeypatch.setattr("omni.streaming.client.headset.sounddevice", module)
    return module


def test_what_is_said_until_told_to_stop(library: ModuleType) -> None:
    said = np.arange(6, dtype=np.float32)
    with Headset(24000) as headset:
        blocks = iter(said.reshape(2, 3, 1))

        def speak() -> None:
            assert headset._in.state == "started"
            for block in blocks:
                headset._in.turn(block)
                block[:] = 9  # PortAudio uses its memory again

        assert headset.record(speak).tolist() == [0, 1, 2, 3, 4, 5]
        assert headset._in.state == "stopped"
        assert not len(headset.record(lambda: None))
    assert (headset._in.state, headset._out.state) == ("closed", "closed")


def test_sound_is_played_in_order_then_silence(library: ModuleType) -> None:
    headset = Headset(24000)
    headset.play(np.array([1, 2, 3], np.float32))
    headset.play(np.array([4], np.float32))
    blocks = [headset._out.turn(np.full((3, 1), np.nan, np.float32))[:, 0].tolist() for _ in range(2)]
    assert blocks == [[1, 2, 3], [4, 0, 0]]
    headset.wait()


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni.streaming.client.headset.sounddevice", None)
    with pytest.raises(InputError, match=r"omni-runtime\[voice\]"):
        Headset(24000)


def test_no_device(library: Any) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PortAudioError("Error querying device -1")

    library.InputStream = refuse
    with pytest.raises(InputError, match="device -1; connect one"):
        Headset(24000)
