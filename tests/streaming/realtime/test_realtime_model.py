"""The realtime API from end to end: the small model behind a server on loopback, and the published client before it."""

from __future__ import annotations

import asyncio
import base64
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime.realtime_conversation_item_user_message_param import Content

from omni import Omni
from tests.streaming.doubles import MEDIA, MODEL, data_url, decoded, hub_of, serving

PIECE_MS = 100


@pytest.fixture(scope="module")
def address(omni: Omni) -> Iterator[str]:
    with serving(hub_of(omni)) as address:
        yield address


@asynccontextmanager
async def connected(address: str, **session: Any) -> AsyncIterator[AsyncRealtimeConnection]:
    http = DefaultAsyncHttpxClient(trust_env=False)
    async with (
        AsyncOpenAI(api_key="-", base_url=f"{address}/v1", http_client=http) as client,
        client.realtime.connect(model=MODEL) as connection,
    ):
        first = await connection.recv()
        assert first.type == "session.created"
        await connection.session.update(session={"type": "realtime", **session})  # type: ignore[arg-type]  # a plain dict for a TypedDict
        await until(connection, "session.updated")
        yield connection


async def until(connection: AsyncRealtimeConnection, type: str) -> list[Any]:
    events: list[Any] = []
    async with asyncio.timeout(60):
        while not events or events[-1].type != type:
            events.append(await connection.recv())
            assert events[-1].type != "error", events[-1]
    return events


def question(name: str) -> bytes:
    """A spoken question as 16 bit PCM at 24 kHz, with silence after it."""
    samples = np.concatenate([decoded((MEDIA / name).read_bytes()), np.zeros(24000, np.float32)])
    return (samples * 32767).astype("<i2").tobytes()


async def speak(connection: AsyncRealtimeConnection, pcm: bytes, *, seconds_a_piece: float = 0.0) -> None:
    size = PIECE_MS * 48
    for at in range(0, len(pcm), size):
        await connection.input_audio_buffer.append(audio=b64encode(pcm[at : at + size]).decode())
        await asyncio.sleep(seconds_a_piece)


async def say(connection: AsyncRealtimeConnection, part: Content) -> None:
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})


def transcript(events: list[Any]) -> str:
    (item,) = events[-1].response.output
    content = item.content[0]
    return content.transcript or content.text


def test_a_text_turn(address: str) -> None:
    async def main() -> None:
        async with connected(address, output_modalities=["text"]) as connection:
            await say(connection, {"type": "input_text", "text": "What is two plus three?"})
            await connection.response.create()
            events = await until(connection, "response.done")
            assert "five" in transcript(events).lower()
            usage = events[-1].response.usage
            assert usage.input_tokens > 0 and usage.output_token_details.text_tokens > 0
            assert usage.total_tokens == usage.input_tokens + usage.output_tokens

    asyncio.run(main())


def test_a_question_asked_aloud_about_a_picture(address: str) -> None:
    async def main() -> None:
        async with connected(address, audio={"input": {"transcription": {"model": "whisper-1"}}}) as connection:
            await say(connection, {"type": "input_image", "image_url": data_url("scene.png", "image/png")})
            await speak(connection, question("where.ogg"))
            events = await until(connection, "response.done")
            kinds = [event.type for event in events]
            order = [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
            ]
            places = [kinds.index(kind) for kind in [*order, "response.created", "response.done"]]
            assert places == sorted(places)
            assert transcript(events) == "It is at the top right."
            sound = b"".join(
                base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta"
            )
            assert 0.5 < len(sound) / 48000 < 4 and np.abs(np.frombuffer(sound, "<i2")).max() > 1000
            kind = "conversation.item.input_audio_transcription.completed"
            written = [event for event in events if event.type == kind] or (await until(connection, kind))[-1:]
            assert written[0].transcript == "Where is the green heart?" and written[0].usage.type == "tokens"

    asyncio.run(main())


def test_barge_in_and_what_was_heard(address: str) -> None:
    async def main() -> None:
        async with connected(address) as connection:
            await say(connection, {"type": "input_text", "text": "Count from one to ten."})
            await connection.response.create()
            events = await until(connection, "response.output_audio.delta")
            item = events[-1].item_id
            await speak(connection, question("how_many.ogg"))
            events = await until(connection, "response.done")
            response = events[-1].response
            assert response.status == "cancelled" and response.status_details.reason == "turn_detected"
            played = sum(len(b64decode(event.delta)) for event in events if event.type == "response.output_audio.delta")
            assert played < 3 * 48000
            await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=100)
            await until(connection, "conversation.item.truncated")
            await connection.conversation.item.retrieve(item_id=item)
            (event,) = await until(connection, "conversation.item.retrieved")
            heard = event.item.content[0]
            assert heard.transcript == "" and len(b64decode(heard.audio)) == 100 * 48
            events = await until(connection, "response.done")
            assert events[-1].response.status == "completed" and transcript(events)

    asyncio.run(main())


def test_only_the_words_that_were_heard_are_remembered(address: str) -> None:
    async def main() -> None:
        async with connected(address) as connection:
            await say(connection, {"type": "input_text", "text": "Count from one to ten."})
            await connection.response.create()
            sent = 0
            while sent < 1400:
                events = await until(connection, "response.output_audio.delta")
                sent += len(b64decode(events[-1].delta)) // 48
            await connection.response.cancel()
            (item,) = (await until(connection, "response.done"))[-1].response.output
            assert item.content[0].transcript.startswith("One, two, three, four")
            await connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=1200)
            await until(connection, "conversation.item.truncated")
            await connection.conversation.item.retrieve(item_id=item.id)
            (event,) = await until(connection, "conversation.item.retrieved")
            assert event.item.content[0].transcript in ("One, two,", "One, two, three,")

    asyncio.run(main())
