"""Sound for the wire: in pieces as in one, and no longer than a piece."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from omni.streaming.realtime.items import WIDTHS, num_bytes
from omni.streaming.realtime.pieces import PIECE_MS, Pieces

RATE = 24000


def cut(format: str, speed: float, sizes: list[int]) -> tuple[bytes, list[list[bytes]]]:
    wave = (0.5 * np.sin(np.arange(RATE * 2) * 0.1)).astype(np.float32)
    pieces, told, at = Pieces(RATE, format, speed), list[list[bytes]](), 0
    while at < len(wave):
        size = sizes[len(told) % len(sizes)]
        told.append(pieces.push(wave[at : at + size]))
        at += size
    told.append(pieces.finish())
    return b"".join(piece for group in told for piece in group), told


@pytest.mark.parametrize("format", ["audio/pcm", "audio/pcmu", "audio/pcma"])
@pytest.mark.parametrize("speed", [1.0, 0.5, 1.5])
def test_pieces_are_the_whole(format: str, speed: float) -> None:
    whole, _ = cut(format, speed, [RATE * 2])
    cut_up, told = cut(format, speed, [7, 4801, 12000, 1])
    assert len(cut_up) == len(whole) and abs(len(whole) - num_bytes(format, 2000 / speed)) <= 4
    if speed == 1:
        assert cut_up == whole
    assert all(0 < len(piece) <= num_bytes(format, PIECE_MS) for group in told for piece in group)


@pytest.mark.parametrize("format", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_the_base64_of_pieces_joins(format: str) -> None:
    whole, told = cut(format, 1.0, [7, 4801, 12000, 1])
    joined = "".join(base64.b64encode(piece).decode() for group in told for piece in group)
    assert base64.b64decode(joined, validate=True) == whole
    assert all(len(piece) % WIDTHS[format] == 0 for group in told for piece in group)


def test_next_to_nothing_is_held_back() -> None:
    pieces = Pieces(RATE, "audio/pcm", 1.0)
    assert [len(piece) for piece in pieces.push(np.zeros(10, np.float32))] == [18]
    assert pieces.push(np.zeros(0, np.float32)) == []
    assert [len(piece) for piece in pieces.finish()] == [2]
