"""Where somebody speaks, and where a recording is cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni.encoders.speech import AFTER, HOP_LEN, RATE, Cutting, Gap, Piece, parts
from omni.encoders.waves import read_audio
from omni.errors import OptionError

Wave = NDArray[np.float32]
MEDIA = Path(__file__).parents[2] / "demos" / "media"
CUTTING = Cutting(longest=4.0, silence=0.16)
HOP = HOP_LEN / RATE


def said(name: str = "where.ogg") -> Wave:
    return read_audio(MEDIA / name, RATE)


def quiet(seconds: float, loud: float = 1e-4) -> Wave:
    return (loud * np.random.default_rng(3).standard_normal(round(seconds * RATE))).astype(np.float32)


def pieces(wave: Wave, cutting: Cutting = CUTTING) -> list[Piece]:
    return [part for part in parts(wave, cutting) if isinstance(part, Piece)]


def test_sentences_are_pieces() -> None:
    gaps, waves = (0.7, 1.3, 0.4), [said(), said("what_moves.ogg"), said("when.ogg")]
    starts, at, whole = list[int](), 0, list[Wave]()
    for gap, wave in zip(gaps, waves, strict=True):
        whole += [quiet(gap), wave]
        starts.append(at + round(gap * RATE))
        at = starts[-1] + len(wave)
    found = pieces(np.concatenate([*whole, quiet(1.1)]))
    assert len(found) == 3
    for piece, start, wave in zip(found, starts, waves, strict=True):
        assert abs(piece.start - start) < 0.3 * RATE and abs(piece.end - start - len(wave)) < 0.3 * RATE
        assert piece.first <= piece.start < piece.end <= piece.last and piece.voice > 0.8
        assert piece.start - piece.first <= CUTTING.padding * RATE and piece.last - piece.end <= AFTER * RATE


@pytest.mark.parametrize("silence", [0.5, 3.0])
def test_the_silence_that_ends_a_piece(silence: float) -> None:
    wave = np.concatenate([said(), quiet(1.0), said()])
    assert len(pieces(wave, Cutting(longest=30, silence=silence))) == (2 if silence < 1 else 1)


@pytest.mark.parametrize("longest", [1, 2, 2.7])
def test_a_voice_that_goes_on_is_cut_without_loss(longest: float) -> None:
    """Pieces meet: every sample of the voice is in exactly one."""
    wave = np.concatenate([said(), said("what_moves.ogg"), said("when.ogg"), said()])
    found = pieces(wave, Cutting(longest=longest, silence=1.0))
    assert len(found) > 4 / longest and found[0].start < 0.2 * RATE and found[-1].end > len(wave) - 0.3 * RATE
    for one, other in pairwise(found):
        assert one.last == one.end == other.start == other.first
    assert all(piece.end - piece.start <= longest * RATE for piece in found)
    assert all(piece.end - piece.start >= longest * RATE / 2 - HOP_LEN for piece in found[:-1])


def test_a_cut_lies_in_a_pause_within_reach() -> None:
    first, pause = said(), quiet(0.25)
    wave = np.concatenate([first, pause, said("what_moves.ogg")])
    one, *_ = pieces(wave, Cutting(longest=2.0, silence=1.0))
    assert len(first) - 0.1 * RATE <= one.end <= len(first) + len(pause)


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(0, np.float32),
        np.zeros(5, np.float32),
        np.zeros(3 * RATE, np.float32),
        quiet(4.0, 0.003),
        (0.3 * np.sin(np.arange(4 * RATE) * 0.2)).astype(np.float32),
        np.concatenate([quiet(2.0), quiet(0.03, 0.3), quiet(2.0)]),
    ],
    ids=["nothing", "five samples", "silence", "noise", "a tone", "a click"],
)
def test_what_is_no_voice_is_no_piece(wave: Wave) -> None:
    assert not any(parts(wave, CUTTING))


def test_long_sounds_without_a_voice_are_told() -> None:
    wave = np.concatenate([quiet(6.0, 0.05), quiet(0.5), said(), quiet(7.0), said(), quiet(5.5, 0.05)])
    gap, one, other, last = filter(None, parts(wave, CUTTING))
    assert isinstance(one, Piece) and isinstance(other, Piece), "and silence is not"
    assert isinstance(gap, Gap) and gap.start == 0 and abs(gap.end - one.start) < HOP_LEN
    assert isinstance(last, Gap) and last.end == len(wave)


@pytest.mark.parametrize("end", [0.35, 0.9, 1.0, 1.1])
def test_a_recording_may_end_anywhere(end: float) -> None:
    """Within a word, and within a hop."""
    wave = said()[: round(end * RATE)]
    found = pieces(wave, Cutting(longest=1.0, silence=0.5))
    assert found[-1].last == len(wave) and all(piece.last - piece.first >= RATE // 10 for piece in found)


def test_pieces_are_found_while_they_are_asked_for() -> None:
    """The detector takes a thirtieth of a recording's time, and text is to come sooner."""
    wave = np.concatenate([said(), quiet(1.0)] * 3)
    wave[-RATE:] = np.nan  # what has not been looked at does no harm
    assert isinstance(next(filter(None, parts(wave, CUTTING))), Piece)
    assert list(parts(np.zeros(5 * RATE, np.float32), CUTTING)) == [None] * 3, "nor does anybody wait for a voice"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("longest", 0),
        ("longest", float("nan")),
        ("silence", -0.1),
        ("threshold", 1.1),
        ("padding", True),
    ],
)
def test_values_out_of_range(name: str, value: object) -> None:
    how: dict[str, object] = {"longest": 4.0, "silence": 0.2, name: value}
    with pytest.raises(OptionError, match=name):
        Cutting(**how)  # type: ignore[arg-type]
