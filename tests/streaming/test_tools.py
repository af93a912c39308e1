"""Function calls in a model's text, however it is cut into pieces."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.streaming.tools import CLOSE, OPEN, Call, CallError, CallParser

LOOK = OPEN + '\n{"name": "look", "arguments": {"at": "it"}}\n' + CLOSE
FOUND = Call("look", '{"at":"it"}')


def parse(pieces: list[str]) -> tuple[str, list[Call]]:
    parser = CallParser({"look", "go"})
    told, calls = "", list[Call]()
    for piece in pieces:
        more, found = parser.push(piece)
        told, calls = told + more, calls + found
    rest, last = parser.finish()
    return told + rest, calls + last


@pytest.mark.parametrize(
    ("text", "told", "calls"),
    [
        ("", "", []),
        ("Hello there.\n", "Hello there.\n", []),
        ("a < b <tool", "a < b <tool", []),
        (LOOK, "", [FOUND]),
        ("\n" + LOOK + "\n", "", [FOUND]),
        ("I look.  \n" + LOOK + LOOK, "I look.", [FOUND, FOUND]),
        (LOOK + "\nDone.", "\nDone.", [FOUND]),
        (LOOK[: -len(CLOSE)], "", [FOUND]),
        (OPEN + '{"name": "go"}' + CLOSE, "", [Call("go", "{}")]),
        (OPEN + '{"name": "go", "arguments": {"a": "</tool_call>"}}' + CLOSE, "", [Call("go", '{"a":"</tool_call>"}')]),
    ],
)
def test_every_cut_gives_the_same(text: str, told: str, calls: list[Call]) -> None:
    whole = parse([text])
    assert (whole[0].strip("\n"), whole[1]) == (told.strip("\n"), calls)
    for size in (1, 2, 3, 7):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        found = parse(pieces)
        assert (found[0].strip("\n"), found[1]) == (told.strip("\n"), calls)


@pytest.mark.parametrize(
    "text",
    [
        OPEN,
        OPEN + CLOSE,
        OPEN + "[]" + CLOSE,
        OPEN + '{"name": 1}' + CLOSE,
        OPEN + '{"name": "fly"}' + CLOSE,
        LOOK + OPEN + "{",
        OPEN + '{"name": "go", "arguments": ' + '{"a":' * 900 + "1" + "}" * 902 + CLOSE,
    ],
)
def test_no_call(text: str) -> None:
    with pytest.raises(CallError):
        parse([text])
    with pytest.raises(CallError):
        parse(list(text))


WORDS = st.text(st.sampled_from('<tool_call>/ab "{}\\é\n'), max_size=20)
CALLS = st.dictionaries(WORDS, st.one_of(WORDS, st.integers(-9, 9), st.none()), max_size=3)


@given(WORDS.filter(lambda text: OPEN not in text), st.lists(CALLS, max_size=3), st.data())
def test_any_call_is_found_and_not_told(before: str, arguments: list[dict[str, object]], data: st.DataObject) -> None:
    blocks = [OPEN + orjson.dumps({"name": "go", "arguments": each}).decode() + CLOSE for each in arguments]
    text = before + "\n".join(blocks)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    told, calls = parse(pieces)
    assert [orjson.loads(call.arguments) for call in calls] == arguments
    assert told == (before.rstrip() if blocks else before)
