"""Sentences put into the words that a voice has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.errors import CheckpointError
from omni.evaluation.evaluate import BUNDLED
from omni.script.wording import FILE, Wording

SMALL = Wording.read(BUNDLED.parent)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("I see a red circle.", "I see a red circle."),
        ("I SEE A RED CIRCLE", "I see a red circle."),
        ("  I\tsee  a star. \n", "I see a star."),
        ("I see 2 red circles.", "I see two red circles."),
        ("- 100 stars", "One hundred stars."),
        ("0, 13, 20, 47 and 999!", "Zero, thirteen, twenty, forty seven and nine hundred ninety nine!"),
        ("007 12345 1,234", "Zero zero seven one two three four five one two three four."),
        ("In 1984, 1900, 2024, 2005", "In nineteen eighty four, nineteen hundred, twenty twenty four, two zero zero five."),
        ("It is 3.5 or -7 or 5 - 3", "It is three point five or minus seven or five minus three."),
        ("At 3:30 or 12:05 or 4:00?", "At three thirty or twelve zero five or four?"),
        ("What is 7 + 5 & 2?", "What is seven plus five and two?"),
        ("the 1st, the 2nd", "The first, the second."),
        ("It's okay, I don’t know; we can't.", "It is okay, I do not know, we can not."),
        ("twenty-one - maybe", "Twenty one, maybe."),
        ('"Hello" (you)... now', "Hello you, now."),
        ("Wait... what?!", "Wait, what?"),
        ("Ｉ ｓｅｅ ５ stars", "I see five stars."),
        ("red,", "Red."),
    ],
)  # fmt: skip
def test_numbers_signs_and_capitals_become_words(written: str, said: str) -> None:
    spoken = SMALL.spoken(written)
    assert spoken.missing == ()
    assert spoken.text == said.replace("circle 🙂", "circle")


@pytest.mark.parametrize(
    ("written", "said", "missing"),
    [
        ("An elephant, an Elephant 🙂!", "An, an!", ("elephant", "🙂")),
        ("50% of $5", "Fifty of five.", ("%", "$")),
        ("👍🏻👩‍👧 yes", "Yes.", ("👍🏻👩\u200d👧",)),
        ("at 5 p.m. on example.com", "At five, on.", ("p.m", "example", "com")),
        ("3rd", "", ("3rd",)),
        ("...", "", ()),
    ],
)
def test_what_has_no_word_is_left_out_and_named_once(written: str, said: str, missing: tuple[str, ...]) -> None:
    spoken = SMALL.spoken(written)
    assert (spoken.text, spoken.missing) == (said, missing)
    assert len(spoken.warnings) == bool(missing)
    assert all(word in spoken.warnings[0] for word in missing)


@given(st.text(st.sampled_from("aI 5.,-:%'’redtwo\n🙂é\u0301"), max_size=30) | st.text(max_size=20))
def test_whatever_is_written_only_words_of_the_voice_are_said(written: str) -> None:
    assert SMALL.words
    said = SMALL.spoken(written).text
    assert {word.strip(",.?!").casefold() for word in said.split()} <= SMALL.words.keys()
    assert SMALL.spoken(said).text == said, "what is said says itself"


def test_a_checkpoint_without_the_file_reads_any_text(tmp_path: Path) -> None:
    plain = Wording.read(tmp_path)
    assert plain.spoken(" - 5 elephants\n 🙂 ").text == "5 elephants 🙂"
    assert plain.spoken("...").text == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"longest": None}, "lacks 'longest'"),
        ({"longest": 0}, "lengths from 1 on"),
        ({"longest": "long"}, "wrong kind"),
        ({"words": ["one"]}, "does not list"),
        ({"written": {"&": "und"}}, "does not list: und"),
        ({"numbers": {"ones": ["zero"], "tens": []}}, "0 to 19"),
        ({"numbers": 5}, "no object"),
    ],
)
def test_a_damaged_file_is_told(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    told = json.loads((BUNDLED.parent / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(told | change))
    with pytest.raises(CheckpointError, match=says):
        Wording.read(tmp_path)
