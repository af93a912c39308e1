"""Speech of text that comes in pieces into an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from omni import AudioChunk, Done, Event, Omni, Script
from omni.errors import MessageError
from omni.events import collect
from tests.oracle.tiny import tiny

TEXT = "One moment, here it is, all of it."
OPTIONS: dict[str, Any] = {"seed": 5, "max_audio_seconds": 1.5}


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), dtype="float32", progress=False)


def test_pieces_are_spoken_as_the_whole(omni: Omni) -> None:
    async def pieces() -> AsyncIterator[str]:
        for at in range(0, len(TEXT), 5):
            await asyncio.sleep(0)
            yield TEXT[at : at + 5]

    async def both() -> list[list[Event]]:
        return [[e async for e in omni.asay(text, voice="Ethan", **OPTIONS)] for text in (pieces(), TEXT)]

    came, whole = (collect(events, omni.sample_rate, spoken=True) for events in asyncio.run(both()))
    assert came.text == whole.text == TEXT
    assert came.done.codes == whole.done.codes
    assert came.audio is not None and whole.audio is not None
    np.testing.assert_allclose(came.audio, whole.audio, atol=1e-5)


def test_sound_does_not_wait_for_text_that_is_still_written(omni: Omni) -> None:
    async def until_sound() -> int:
        heard = asyncio.Event()

        async def pieces() -> AsyncIterator[str]:
            yield "A long beginning, long enough to be spoken for a while by itself. A"
            await asyncio.wait_for(heard.wait(), 20)
            yield "nd its end."

        number = 0
        async for event in omni.asay(pieces(), voice="Ethan", **OPTIONS):
            if isinstance(event, AudioChunk):
                number += not heard.is_set()
                heard.set()
        return number

    assert asyncio.run(until_sound()) == 1


def test_what_breaks_the_text_breaks_the_speech_and_nothing_else(omni: Omni) -> None:
    async def pieces() -> AsyncIterator[str]:
        yield "A beginning, "
        raise ConnectionError("gone")

    async def speak() -> None:
        with pytest.raises(ConnectionError, match="gone"):
            async for _ in omni.asay(pieces(), voice="Ethan", **OPTIONS):
                pass
        with pytest.raises(MessageError, match="no text"):
            async for _ in omni.asay(" "):
                pass

    asyncio.run(speak())
    assert omni.ping(10)
    assert omni.engine._num_open == 0


def test_an_event_loop_that_is_gone_harms_nobody(omni: Omni) -> None:
    """Its answer was abandoned; whoever else is answered goes on."""

    async def abandon() -> None:
        events = omni.astream([{"role": "user", "content": "Hello!"}], max_tokens=500, seed=1)
        await anext(events)
        asyncio.get_running_loop().create_task(events.__anext__())
        await asyncio.sleep(0)

    expected = omni.generate([{"role": "user", "content": "And you?"}], max_tokens=40)
    asyncio.run(abandon())
    assert omni.generate([{"role": "user", "content": "And you?"}], max_tokens=40).text == expected.text


def test_logprobs_add_up_and_change_nothing(omni: Omni) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    plain = omni.generate(messages, max_tokens=12)
    events = list(omni.stream(messages, max_tokens=12, logprobs=3))
    told = [token for event in events if not isinstance(event, (AudioChunk, Done)) for token in event.logprobs]
    assert collect(events, omni.sample_rate, spoken=False).text == plain.text
    assert b"".join(t.token for t in told).decode(errors="replace").startswith(plain.text[:3])
    for token in told:
        assert token.top[0] == (token.token, token.logprob), "greedy takes the likeliest"
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)
        assert len(token.top) == 3 and token.logprob < 0


LONG = "Anything that 1,234 people read aloud, dot by dot; e.g. this. " * 66
MOST = 0.05
"""Seconds for which no request may hold the event loop."""


async def longest_pause(omni: Omni, text: str | AsyncIterator[str]) -> float:
    """Of the event loop, until a text begins to sound."""
    longest, over = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not over.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    async with aclosing(omni.asay(text, voice="Ethan", **OPTIONS)) as events:
        async for event in events:
            if isinstance(event, AudioChunk):
                break
    over.set()
    await watching
    return longest


@pytest.mark.parametrize("comes", [False, True])
def test_a_long_text_does_not_hold_the_event_loop(comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    omni = Omni.load(progress=False)
    threads, write = set[int](), Script.write

    def noted(script: Script, text: str) -> None:
        threads.add(threading.get_ident())
        write(script, text)

    monkeypatch.setattr(Script, "write", noted)

    async def pieces() -> AsyncIterator[str]:
        yield LONG

    pauses = (asyncio.run(longest_pause(omni, pieces() if comes else LONG)) for _ in range(4))
    assert next((pause for pause in pauses if pause < MOST), None) is not None
    assert threads and threading.get_ident() not in threads


def test_a_speech_that_is_cancelled_leaves_its_text_at_rest(omni: Omni) -> None:
    async def until_asked() -> list[str]:
        ended, asked = list[str](), asyncio.Event()

        async def pieces() -> AsyncIterator[str]:
            try:
                yield "A long beginning, long enough to be spoken for a while by itself. A"
                asked.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                ended.append("text")

        text = pieces()

        async def speak() -> None:
            async with aclosing(omni.asay(text, voice="Ethan", **OPTIONS)) as events:
                async for _ in events:
                    pass

        speaking = asyncio.create_task(speak())
        await asyncio.wait_for(asked.wait(), 20)
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        ended.append("speech")
        assert [piece async for piece in text] == []
        return ended

    assert asyncio.run(until_asked()) == ["text", "speech"]
