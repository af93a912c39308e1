"""Whose voice a name stands for."""

from __future__ import annotations

import pytest

from omni.streaming.voices import KNOWN, aliases, voice_of

PUBLISHED = ["Chelsie", "Ethan"]
MANY = ["Chelsie", "Ethan", "Aiden", "Cherry", *(f"voice{i}" for i in range(13))]


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("Ethan", "Ethan"), ("ethan", "Ethan"), ("CHELSIE", "Chelsie"), ("", "Chelsie"), ("alloy", "Chelsie"),
        ("Alloy", "Chelsie"), ("onyx", "Ethan"), ("nova", "Chelsie"), ("cedar", "Ethan"), ("nobody", None), ("\u0130", None),
    ],
)  # fmt: skip
def test_names(name: str, voice: str | None) -> None:
    assert voice_of(name, PUBLISHED, "Chelsie") == voice


@pytest.mark.parametrize("voices", [["a"], PUBLISHED, ["a", "b", "c"], ["w", "x", "y", "z"], MANY])
def test_every_name_of_openai_speaks(voices: list[str]) -> None:
    found = aliases(voices, voices[0])
    assert list(found) == list(KNOWN) and found["alloy"] == voices[0]
    assert found == aliases(voices, voices[0])
    assert len(set(found.values())) == (4 if voices is MANY else len(voices))


def test_the_default_comes_first_wherever_it_stands() -> None:
    assert aliases(["a", "b", "c"], "b")["alloy"] == "b"


def test_men_stand_for_men_where_the_model_has_some() -> None:
    found = aliases(MANY, "Chelsie")
    assert {found["ash"], found["ballad"]} == {"Ethan", "Aiden"} and {found["coral"], found["nova"]} == {"Chelsie", "Cherry"}


def test_a_name_of_its_own_is_no_alias() -> None:
    assert "nova" not in aliases(["Nova", "b"], "b") and voice_of("nova", ["Nova", "b"], "b") == "Nova"
