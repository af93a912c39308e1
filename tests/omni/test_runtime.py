"""Requests as they are made: calls that an answer must begin with, and seeds."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from omni import Omni, Options
from omni.encoders.decoder import Here
from omni.errors import OptionError
from omni.recent import Recent
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


def test_a_call_that_is_written_letter_by_letter_is_not_spoken(omni: Omni) -> None:
    assert "<tool_call>" not in omni.runtime.reader.tokenizer.specials
    how: Any = {"voice": omni.default_voice, "max_tokens": 20, "max_audio_seconds": 0.2, "seed": 1}
    called = omni.generate(ASKED, tools=TOOLS, must_call="look", **how)
    assert called.text.startswith("<tool_call>") and called.done.codes == () and called.done.finish_reason == "length"
    assert omni.generate(ASKED, tools=TOOLS, **how).done.codes


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


def test_what_was_lost_of_a_medium_is_told_with_each_answer(omni: Omni) -> None:
    again = list[str]()

    class Retelling(Here):
        def retell(self, sentences: Sequence[str]) -> None:
            again.extend(sentences)

    whole = BytesIO()
    with wave.open(whole, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
        file.writeframes(np.arange(-8000, 8000, dtype=np.int16).tobytes())
    asked: Any = [{"role": "user", "content": [{"type": "audio", "audio": whole.getvalue()[:-3000]}]}]
    hearer = Omni(omni.runtime.apart(b"apart"))
    hearer.runtime.reader = replace(hearer.runtime.reader, decoder=Retelling(), recent=Recent(1 << 20))
    told = hearer.generate(asked, max_tokens=2).warnings
    assert len(told) == 1 and "3000 bytes are missing" in told[0] and again == []
    assert hearer.generate(asked, max_tokens=2).warnings == told == tuple(again)


def test_a_seed_that_was_drawn_is_exact_in_any_json(reader: Omni) -> None:
    assert all(0 <= reader.runtime.request(ASKED, None, Options()).seed < 2**53 for _ in range(8))


def rows_read(omni: Omni, content: Any) -> int:
    """Rows of a prompt that were not found in the cache, a thousand more for each medium that was encoded."""
    think, read = omni.runtime.think, list[int]()
    advance, put = think.runner.advance, think.features._rows.put

    def counted(caches: Any, rows: Any, *how: Any) -> Any:
        read.extend(map(len, rows))
        return advance(caches, rows, *how)

    def kept(*item: Any) -> None:
        read.append(1000)
        put(*item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(think.runner, "advance", counted)
        patch.setattr(think.features._rows, "put", kept)
        omni.generate([{"role": "user", "content": content}], max_tokens=1)
    return sum(read)


@pytest.mark.parametrize("medium", [False, True])
def test_nothing_is_shared_between_salts(medium: bool, omni: Omni) -> None:
    picture = np.random.default_rng(medium).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    words = f"{'hello the 1 ' * 60}{medium}"
    content: Any = [{"type": "image", "image": picture}, words] if medium else words
    one, other = omni.apart("one"), omni.apart("other")
    first = rows_read(one, content)
    assert rows_read(one, content) < 0.4 * first  # the same is found again
    assert rows_read(other, content) == first
    assert rows_read(omni, content) == first
    assert rows_read(omni.apart("one"), content) < 0.4 * first  # whoever has the same salt finds it
    assert (
        other.generate([{"role": "user", "content": content}], max_tokens=4).text
        == omni.generate([{"role": "user", "content": content}], max_tokens=4).text
    )
