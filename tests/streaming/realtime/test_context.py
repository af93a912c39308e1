"""Items as messages, and what a model that forgets leaves of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from omni.session import SHOWN, Forgotten
from omni.streaming.audio.wire import FORMATS
from omni.streaming.realtime.context import context_of
from omni.streaming.realtime.items import Item, Part


def user(id: str, *parts: Part) -> Item:
    return Item(id, "message", "user", parts=list(parts) or [Part("input_text", id)])


def assistant(id: str, text: str, **about: Any) -> Item:
    return Item(id, "message", "assistant", parts=[Part("output_audio", text)], **about)


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def test_what_was_said_in_turn() -> None:
    items = [
        Item("s", "message", "system", parts=[Part("input_text", "Be kind. "), Part("input_text", "Always.")]),
        user("a"),
        user("b"),
        assistant("c", "Hi."),
        assistant("d", "Still there?", status="incomplete"),
        user("e"),
        assistant("f", "Not yet sa", status="in_progress"),
    ]
    context = context_of(items, "Be brief.")
    assert context.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind. Always."},
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": "Hi."},
        {"role": "assistant", "content": "Still there?"},
        {"role": "user", "content": [text("e")]},
    ]
    assert [[item.id for item in source] for source in context.sources] == [[], ["s"], ["a", "b"], ["c"], ["d"], ["e"]]
    assert context_of([], "").messages == []


def test_calls_and_what_came_of_them() -> None:
    calls = [Item(f"f{i}", "function_call", call_id=f"c{i}", name="look", arguments="{}") for i in range(3)]
    outputs = [Item(f"o{i}", "function_call_output", call_id=f"c{i}", output=str(i)) for i in range(2)]
    context = context_of([user("a"), assistant("b", "Hm."), *calls[:2], *outputs, calls[2]], "")

    def call(i: int) -> dict[str, Any]:
        return {"type": "function", "id": f"c{i}", "function": {"name": "look", "arguments": "{}"}}

    assert context.messages[1:] == [
        {"role": "assistant", "content": "Hm.", "tool_calls": [call(0), call(1)]},
        {"role": "tool", "content": "0", "tool_call_id": "c0"},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [call(2)]},
    ]
    assert [[item.id for item in source] for source in context.sources] == [["a"], ["b", "f0", "f1"], ["o0"], ["o1"], ["f2"]]


def test_sounds_and_pictures() -> None:
    wave = np.linspace(-0.5, 0.5, 240, dtype=np.float32)
    spoken = Part("input_audio", "Hello.", "audio/pcm", bytearray(FORMATS["audio/pcm"].encode(wave)))
    called = Part("input_audio", None, "audio/pcmu", bytearray(FORMATS["audio/pcmu"].encode(wave)))
    gone, unknown = Part("input_audio", "Hello again."), Part("input_audio")
    shown, hidden = Part("input_image", image=b"png"), Part("input_image")
    item = user("a", spoken, called, gone, unknown, shown, hidden)
    (message,) = context_of([item], "").messages
    first, second, *rest = message["content"]
    assert rest == [text("Hello again."), {"type": "image", "image": b"png"}, text(SHOWN)]
    assert first["audio"][1] == 24000 and np.abs(first["audio"][0] - wave).max() < 1e-4
    assert second["audio"][1] == 8000 and np.abs(second["audio"][0] - wave).max() < 0.02
    again = context_of([item], "").messages[0]["content"][0]["audio"][0]
    assert again is first["audio"][0]  # decoded once


def test_what_a_session_forgets_is_forgotten_for_good() -> None:
    picture = Part("input_image", image=b"png", url="data:")
    items = [
        user("a"),
        assistant("b", "1"),
        user("c", picture),
        assistant("d", "2"),
        user("e"),
        assistant("f", "3"),
        user("g"),
    ]
    context = context_of(items, "Be brief.")
    system, *said = context.messages[:-1]  # the last is the turn that is being answered
    bare = {"role": "user", "content": [text(SHOWN)]}
    context.forget(Forgotten(2, 3))
    assert [item.forgotten for item in items] == [True, True, False, False, False, False, False]
    assert picture.image == b"" and picture.url == "data:"
    assert context_of(items, "Be brief.").messages == [system, bare, *said[3:], context.messages[-1]]


def test_a_session_that_forgot_nothing() -> None:
    items = [user("a"), assistant("b", "1"), user("c")]
    for instructions in ("", "Be brief."):
        context = context_of(items, instructions)
        context.forget(Forgotten())
        assert not any(item.forgotten for item in items)


def test_a_session_that_forgot_all_but_the_turn() -> None:
    items = [user("a"), assistant("b", "1"), user("c")]
    context = context_of(items, "")
    context.forget(Forgotten(2, 2))
    assert [item.forgotten for item in items] == [True, True, False]


def test_an_answer_to_a_function() -> None:
    items = [user("a"), Item("o", "function_call_output", call_id="c", output="x")]
    context = context_of(items, "")  # there is no turn: all of it is past
    context.forget(Forgotten(1, 1))
    assert [item.forgotten for item in items] == [True, False]
