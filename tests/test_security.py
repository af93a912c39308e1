"""What docs/security.md says is shown by a test, a test shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def named() -> Iterator[tuple[str, str]]:
    """(file, test or nothing) of each row; a test without a file is in the one named before it."""
    table = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")][1:]
    for row in table:
        cell, file = re.split(r"(?<!\\)\|", row)[-2], ""
        for name in re.findall(r"`([^`]+)`", cell):
            if name.endswith(".py"):
                file = name
                yield file, ""
            else:
                before, _, test = name.rpartition("::")
                file = before or file
                yield file, test


def test_every_class_is_shown_by_something() -> None:
    assert len(list(named())) > 25
    assert all(file for file, _ in named())


@pytest.mark.parametrize(("file", "test"), sorted(set(named())))
def test_what_is_named_is_there(file: str, test: str) -> None:
    found = [path.read_text() for path in (ROOT / "tests").rglob(file)]
    assert found, f"there is no {file}"
    assert not test or any(re.search(rf"def {test}\b", text) for text in found), f"{file} has no {test}"
