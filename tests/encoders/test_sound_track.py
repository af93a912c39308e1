"""Frames of MP3 behind damage."""

from __future__ import annotations

import pytest

from omni.encoders.sound_track import _Reservoir


@pytest.mark.parametrize("size", range(12))
def test_a_frame_behind_damage_may_be_of_any_length(size: int) -> None:
    """What is left of one may end before it says what bytes of others it needs."""
    reservoir = _Reservoir()
    reservoir.lose()
    frame = bytes((0xFF, 0xFA, 0x90, 0, 0, 0, 0xFF, 0x80, 0, 0, 0, 0))[:size]
    assert reservoir.is_torn(frame) == (size >= 8)
