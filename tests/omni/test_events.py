"""What events say of themselves."""

from __future__ import annotations

from omni.events import Timings
from omni.talker.voice import STREAMED, ChunkPolicy


def test_real_time_factor_is_work_for_a_second_of_sound() -> None:
    assert Timings(0, 0, None, None, total=3.0, audio=2.0).real_time_factor == 1.5
    assert Timings(0, 0, None, None, total=3.0, audio=0.0).real_time_factor is None


def test_streamed_speech_looks_ahead_and_starts_small() -> None:
    assert ChunkPolicy(first=2, growth=1, largest=6, ahead=1) == STREAMED
