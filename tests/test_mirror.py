"""Tests mirror the rooms, file for file.

tests/ROOM/WING/test_X.py tests ROOM/WING/X.py, the package X there, or, where X is the wing's own name, the wing as a whole;
test_X_more.py tests more of the same. Files right in tests/ test the house.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ROOMS = ("kernels", "encoders", "talker", "omni", "streaming", "demos")

ACROSS = {
    "demos/test_small_world.py": "what small_model/world draws and speaks",
    "kernels/fused/test_built.py": "what the compiler makes of every fused kernel",
    "kernels/fused/test_harness.py": "the tools of the tests beside it",
    "kernels/native/test_sanitizers.py": "every access of the C twins",
    "streaming/test_foreign_clients.py": "requests in the shapes that published clients send",
}
"""Tests of something that no one file has, and what it is."""
HOUSE = {"test_mirror.py", "test_readme.py", "test_rooms.py", "test_security.py", "test_sharing.py"}


def files() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((TESTS / room).rglob("test_*.py"))


def is_tested_by(path: Path) -> bool:
    """Whether what a test is called after is there."""
    wing, words = ROOT / path.relative_to(TESTS).parent, path.stem.split("_")[1:]
    names = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
    return any(name == wing.name or (wing / f"{name}.py").exists() or any((wing / name).glob("*.*")) for name in names)


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_stand_where_what_they_test_does(path: Path) -> None:
    name = str(path.relative_to(TESTS))
    assert (ROOT / name).parent.is_dir(), f"{name}: no such wing"
    assert is_tested_by(path) != (name in ACROSS), f"{name}: call it after a file of its wing, or say in ACROSS why not"


def test_nothing_is_listed_that_is_gone() -> None:
    assert {name for name in ACROSS if not (TESTS / name).exists()} == set()


def test_the_house_has_few_tests_of_its_own() -> None:
    assert {path.name for path in TESTS.glob("test_*.py")} == HOUSE
