"""Requests as they are made: calls that an answer must begin with, and seeds."""

from __future__ import annotations

from typing import Any

import pytest

from omni import Omni, Options
from omni.errors import OptionError
from tests.oracle.tiny import tiny

ASKED: Any = [{"role": "user", "content": "hello the 1"}]
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "listen")]


@pytest.fixture(scope="module")
def reader() -> Omni:
    return Omni.load(tiny("qwen3"), progress=False)


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), progress=False)


@pytest.mark.parametrize(
    ("must_call", "tools", "begins"),
    [
        ("listen", TOOLS, '<tool_call>\n{"name": "listen", "arguments":'),
        (True, TOOLS[:1], '<tool_call>\n{"name": "look", "arguments":'),
        (True, TOOLS, '<tool_call>\n{"name": "'),
    ],
)
@pytest.mark.parametrize("sampled", [False, True])
def test_an_answer_begins_with_the_call(must_call: Any, tools: Any, begins: str, sampled: bool, reader: Omni) -> None:
    how: Any = {"tools": tools, "max_tokens": 60, "temperature": float(sampled), "repetition_penalty": 1.3, "seed": 1}
    free, forced = reader.generate(ASKED, **how), reader.generate(ASKED, must_call=must_call, logprobs=0, **how)
    assert forced.text.startswith(begins) and not free.text.startswith(begins)
    assert forced.done.token_ids[0] == reader.runtime.reader.tokenizer.specials["<tool_call>"]
    assert len(forced.done.token_ids) == 60
    assert reader.generate(ASKED, must_call=must_call, **how).done.token_ids == forced.done.token_ids


def test_a_limit_may_end_the_call(reader: Omni) -> None:
    reply = reader.generate(ASKED, tools=TOOLS, must_call="look", max_tokens=3)
    assert reply.finish_reason == "length" and '<tool_call>\n{"name": "look"'.startswith(reply.text)


@pytest.mark.parametrize(("must_call", "tools"), [(True, ()), ("look", ()), ("speak", TOOLS)])
def test_what_must_be_called_is_among_the_tools(must_call: Any, tools: Any, reader: Omni) -> None:
    with pytest.raises(OptionError, match="must_call is"):
        reader.generate(ASKED, tools=tools, must_call=must_call)


def test_a_session_may_ask_for_a_call(reader: Omni) -> None:
    session = reader.session(max_tokens=40)
    session.tools, session.must_call = TOOLS, "look"
    session.append_text("hello")
    list(session.respond())
    assert session.messages[-1]["content"].startswith('<tool_call>\n{"name": "look", "arguments":')
    session.must_call = False
    session.append_text("hello")
    list(session.respond())
    assert not session.messages[-1]["content"].startswith("<tool_call>")


def test_tools_that_are_written_in_are_told(omni: Omni, reader: Omni) -> None:
    assert omni.capabilities.calls and reader.capabilities.calls
    (warning,) = omni.generate(ASKED, tools=TOOLS, max_tokens=2).warnings
    assert "written into the system's message" in warning
    assert omni.generate(ASKED, max_tokens=2).warnings == () == reader.generate(ASKED, tools=TOOLS, max_tokens=2).warnings


def test_a_seed_that_was_drawn_is_exact_in_any_json(reader: Omni) -> None:
    assert all(0 <= reader.runtime.request(ASKED, None, Options()).seed < 2**53 for _ in range(8))
