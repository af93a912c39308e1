"""The realtime runner of `openai-agents`, as it is, talks with the small model."""

from __future__ import annotations

import asyncio

import numpy as np
import soundfile
import soxr
from agents import set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.realtime.config import RealtimeSessionModelSettings
from agents.realtime.events import RealtimeAudio, RealtimeHistoryUpdated, RealtimeSessionEvent
from agents.realtime.items import AssistantAudio, AssistantMessageItem, InputAudio, UserMessageItem
from agents.realtime.session import RealtimeSession

from omni import Omni
from tests.streaming.doubles import MEDIA, MODEL, hub_of, serving

SECONDS = 60.0


def test_a_typed_turn_and_one_aloud(omni: Omni) -> None:
    with serving(hub_of(omni)) as address:
        asyncio.run(converse(address))


async def converse(address: str) -> None:
    set_tracing_disabled(True)
    settings: RealtimeSessionModelSettings = {"model_name": MODEL, "voice": "ash"}
    agent: RealtimeAgent[None] = RealtimeAgent(name="guide", instructions="You are Omni.")
    runner = RealtimeRunner(agent, config={"model_settings": settings})
    url = f"{address.replace('http', 'ws')}/v1/realtime?model={MODEL}"
    async with await runner.run(model_config={"url": url, "api_key": "none"}) as session:
        async with asyncio.timeout(SECONDS):
            await session.send_message("What is two plus three?")
            sound = await answered(session, "Two plus three is five.")
            assert len(sound) / 48000 > 0.8
            await asyncio.sleep(len(sound) / 48000 + 0.5)  # hear it out: who speaks meanwhile has to speak up
            question, rate = soundfile.read(MEDIA / "what_moves.ogg", dtype="float32")
            wave = np.pad(soxr.resample(question, rate, 24000), (4800, 36000))
            pcm = (wave * 32767).astype("<i2").tobytes()
            for at in range(0, len(pcm), 9600):
                await session.send_audio(pcm[at : at + 9600])
            await heard(session, "What moves?")


async def answered(session: RealtimeSession, words: str) -> bytes:
    """Its sound, once the answer stands in the runner's history."""
    sound = b""
    async for event in session:
        if isinstance(event, RealtimeAudio):
            sound += event.audio.data
        if words in spoken_in(event):
            return sound
    raise AssertionError("the session ended")


async def heard(session: RealtimeSession, words: str) -> None:
    async for event in session:
        if isinstance(event, RealtimeHistoryUpdated):
            turns = [item for item in event.history if isinstance(item, UserMessageItem)]
            if any(isinstance(part, InputAudio) and part.transcript == words for turn in turns for part in turn.content):
                return
    raise AssertionError("the session ended")


def spoken_in(event: RealtimeSessionEvent) -> list[str | None]:
    """Transcripts of finished answers."""
    if not isinstance(event, RealtimeHistoryUpdated):
        return []
    items = [item for item in event.history if isinstance(item, AssistantMessageItem) and item.status == "completed"]
    return [part.transcript for item in items for part in item.content if isinstance(part, AssistantAudio)]
