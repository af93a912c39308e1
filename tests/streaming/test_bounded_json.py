"""JSON within bounds: the same values as any parser gives, and what holds too much refused before it is parsed."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from omni.streaming.bounded_json import MOST_BYTES, MOST_DEPTH, MOST_VALUES, parse
from omni.streaming.problems import Problem

CODED = base64.b64encode(random.Random(3).randbytes(200_001)).decode()
IN_LINES = base64.encodebytes(random.Random(4).randbytes(300_000)).decode()


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "",
        5,
        None,
        CODED,
        {"a": CODED, "b": [CODED[:20_000], {"c": IN_LINES}], "d": "x" * 9000 + '"' + "é\\" * 9000},
        [IN_LINES.replace("\n", "\r\n"), "data:audio/wav;base64," + CODED, 2**70, -1.5e300],
        {"text": '\\"[{,:' * 5000, "more": "\\" * 40_001},
        ["\\" * n + '"' + CODED[: 8190 + n] for n in range(9)],
    ],
)
@pytest.mark.parametrize("ascii", [True, False])
def test_values_are_those_of_any_parser(value: Any, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert parse(text) == value
    assert parse(text.encode()) == value
    assert parse(text.replace("/", "\\/")) == value


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '"\\ud800"', "[1,]", f"[{'1' * 50_000}]", f'{{"a": {CODED}}}', CODED, '"' * 99]
)
def test_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever the parser says
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deep"),
        ('{"a":' * 900 + "1" + "}" * 900, "deep"),
        ("[" + ",".join(["0"] * (MOST_VALUES + 1)) + "]", "fields and items"),
        ("{" + ",".join(f'"f{i}":1' for i in range(MOST_VALUES // 2 + 1)) + "}", "fields and items"),
        ('["' + '","' * MOST_VALUES + '"]', "strings"),
        ('"' * (3 * MOST_VALUES), "strings"),
        ('"' + "ä" * MOST_BYTES + '"', "besides base64"),
        ('"' + "\\u0041" * MOST_BYTES + '"', "besides base64"),
        (" " * (MOST_BYTES + 1) + "1", "besides base64"),
        ('{"' + CODED + '": 1}', "name of a field"),
    ],
)
def test_what_holds_too_much(text: str, says: str) -> None:
    with pytest.raises(Problem, match=says):
        parse(text)


def test_what_is_as_large_as_it_may_be() -> None:
    assert parse("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert len(parse("[" + ",".join(["0"] * MOST_VALUES) + "]")) == MOST_VALUES
    assert parse(json.dumps({"a": '",[{' * 100_000})) == {"a": '",[{' * 100_000}
