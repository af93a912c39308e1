# mypy: disable-error-code="untyped-decorator"
# (the configuration skips hypothesis' types)
"""Text that remembers which of its characters may be special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from omni.prompt.marked import Marked, concat, mark, special_spans

UPPER = re.compile("[A-Z]+")
texts = st.text("aAbB -\n", max_size=12)
seps = st.none() | st.text("aAbB -", min_size=1, max_size=2)
OPERATIONS: dict[str, Callable[[str, str, str, int], Any]] = {
    "itself": lambda x, y, z, n: (x, str(x), x[:]),
    "add": lambda x, y, z, n: x + y + z,
    "add to a string": lambda x, y, z, n: "" + x,
    "slices": lambda x, y, z, n: (x[n:], x[:n], x[-n:], x[::-1], x[n : n + 2], x[1::2]),
    "one": lambda x, y, z, n: x[n] if n < len(x) else "",
    "strips": lambda x, y, z, n: (x.strip(), x.lstrip(), x.rstrip(), x.strip(y), x.lstrip(y), x.rstrip(y)),
    "affixes": lambda x, y, z, n: (x.removeprefix(y), x.removesuffix(y), x.removesuffix("")),
    "splits": lambda x, y, z, n: [*x.split(), *x.split(None, n), *x.rsplit(None, n)],
    "splits at": lambda x, y, z, n: [*x.split(y or "-"), *x.split(y or "-", n), *x.rsplit(y or "-", n)],
    "lines": lambda x, y, z, n: [*x.splitlines(), *x.splitlines(True)],
    "partitions": lambda x, y, z, n: [*x.partition(y or "A"), *x.rpartition(y or "A")],
    "replace": lambda x, y, z, n: (x.replace(y or "-", z), x.replace(y or "-", z, n)),
    "join": lambda x, y, z, n: (x.join([y, z, y]), x.join([y]), x.join([])),
}


def strings(result: Any) -> list[str]:
    return [result] if isinstance(result, str) else list(result)


def is_marked(text: str) -> list[bool]:
    spans = list(special_spans(text))
    return [any(first <= i < last for first, last in spans) for i in range(len(text))]


@pytest.mark.parametrize("name", OPERATIONS)
@given(x=texts, y=texts, z=texts, n=st.integers(0, 3))
def test_it_is_the_string_and_marks_stay_with_their_characters(name: str, x: str, y: str, z: str, n: int) -> None:
    """Capitals are marked, and no operation here makes a letter another."""
    found = strings(OPERATIONS[name](mark(x, UPPER), mark(y, UPPER), mark(z, UPPER), n))
    assert found == strings(OPERATIONS[name](x, y, z, n))
    for text in found:
        assert is_marked(text) == [letter.isupper() for letter in text]


def test_marks_are_told_by_place_and_not_by_letter() -> None:
    text = concat(["<x>", Marked("<x>", "!!!"), "-", Marked("<x>", "!!!"), "<x>"])
    assert list(special_spans(text)) == [(3, 6), (7, 10)]
    assert [list(special_spans(part)) for part in text.split("-")] == [[(3, 6)], [(0, 3)]]
    assert list(special_spans(text.replace("-", ""))) == [(3, 9)]
    assert list(special_spans(text.replace("<x>", "y"))) == []
    apart = "1abb".replace("1abb", "1ab") + Marked("b", "!")
    assert [list(special_spans(part)) for part in apart.split("ab")] == [[], [(0, 1)]]


@pytest.mark.parametrize(
    "change",
    [
        str.upper, str.lower, str.title, lambda x: x * 2, lambda x: (x + "%s") % x, lambda x: f"{x}!", lambda x: "".join(x),
        lambda x: "".join([x]), lambda x: "-".join([x, x]), lambda x: (x + "{}").format(x), lambda x: json.dumps(x),
        lambda x: x.replace("", "-"), lambda x: x.center(9), lambda x: x.encode().decode(), lambda x: Markup(x) + x,
        lambda x: x + Markup("<"), lambda x: x.translate({}), lambda x: Marked("".join(x)),
    ],
)  # fmt: skip
def test_what_else_is_done_to_it_leaves_text(change: Callable[[str], str]) -> None:
    assert list(special_spans(change(mark("aBc", UPPER)))) == []
    assert change(mark("aBc", UPPER)) == change("aBc")


def test_it_is_a_string_to_all_who_look() -> None:
    text = mark("aBc", UPPER)
    assert text == "aBc" and hash(text) == hash("aBc") and {"aBc": 1}[text] == 1
    assert "Bc" in text and text.startswith("aB") and text.find("c") == 2 and sorted([text, "a"]) == ["a", "aBc"]
    with pytest.raises(TypeError):
        text + 1  # type: ignore[operator]  # wrong on purpose
    with pytest.raises(ValueError, match="empty separator"):
        text.split("")


def test_long_texts_take_time_in_proportion() -> None:
    text = mark("aB " * 100_000, UPPER)
    pieces = text.split(" ")
    assert len(pieces) == 100_001 and all(list(special_spans(piece)) == [(1, 2)] for piece in pieces[:-1])
    assert all(last < first for (_, last), (first, _) in pairwise(special_spans(concat(pieces))))
