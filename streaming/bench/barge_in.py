"""Barge-in: how long an answer goes on after its listener has begun to speak."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from omni.streaming.audio.wire import Samples
from omni.streaming.bench.caller import SOUND, CallError, Place, calling
from omni.streaming.bench.recordings import BARGE_IN_MS
from omni.streaming.bench.spread import Spread

HEARD_SECONDS = 0.0, 1.0
"""How long an answer is heard before somebody speaks."""
ATTEMPTS = 2
"""For each trial, at most: an answer that is not being heard when somebody is noticed cannot be broken off."""
TOLD_FAULTS = 5
MOST_MS = BARGE_IN_MS + 150.0
"""The mark: what the detector needs, and what the server and the way to it may add."""


@dataclass(frozen=True)
class Request:
    """What has a long answer. picture: as a file."""

    text: str
    picture: bytes | None = None


@dataclass(frozen=True)
class Cut:
    """Seconds from the first voiced sample: to the last sound, 0 where none came after it, and to being told to stop."""

    last_sound: float
    told: float


@dataclass(frozen=True)
class Figures:
    """Attributes:
    model: that answered.
    last_sound_ms, told_ms: see Cut; players stop when they are told, with sound left that was sent ahead.
    void: answers of which nothing was being heard when somebody was noticed. failed: those that broke.
    faults: some of what went wrong, in words.
    """

    model: str
    last_sound_ms: Spread
    told_ms: Spread
    void: int
    failed: int
    faults: tuple[str, ...]


async def barge_in(
    model: str, place: Place, request: Request, utterances: Sequence[Samples], trials: int, *, seed: int = 0
) -> Figures:
    """Break off so many answers, one after the other.

    model: its name, for the figures. utterances: steady ones, see `is_steady`.
    """
    rng, cuts = Random(seed), list[Cut]()
    void, faults = 0, list[str]()
    for _ in range(ATTEMPTS * trials):
        if len(cuts) == trials:
            break
        try:
            cut = await trial(place, request, rng.choice(utterances), rng.uniform(*HEARD_SECONDS))
        except CallError as e:
            faults.append(str(e))
            continue
        if cut:
            cuts.append(cut)
        else:
            void += 1
    return Figures(
        model=model,
        last_sound_ms=Spread.of(cut.last_sound for cut in cuts),
        told_ms=Spread.of(cut.told for cut in cuts),
        void=void,
        failed=len(faults),
        faults=tuple(faults[:TOLD_FAULTS]),
    )


async def trial(place: Place, request: Request, utterance: Samples, heard_seconds: float) -> Cut | None:
    """Speak when the answer has been heard for so long; None where nothing of it was being heard any more."""
    async with calling(place) as caller:
        await caller.show(request.picture, request.text)
        await caller.send("response.create")
        told = await caller.until(SOUND)
        last, played_out, noticed = told.at, told.at + told.seconds, 0.0
        await asyncio.sleep(heard_seconds)  # what comes meanwhile is stamped when it does
        said = caller.say(utterance)
        while told.type != "response.done":
            told = await caller.next()
            if told.type == SOUND:
                last, played_out = told.at, max(played_out, told.at) + told.seconds
            elif told.type == "input_audio_buffer.speech_started":
                noticed = told.at
        if caller.order.faults:
            raise CallError(caller.order.faults[0])
        match told.event["response"]:
            case {"status": "cancelled", "status_details": {"reason": "turn_detected"}} if noticed:
                return Cut(max(0.0, last - said.began), noticed - said.began) if noticed < played_out else None
            case {"status": "completed" | "incomplete"}:
                return None
            case response:
                raise CallError(f"the answer is {response['status']}: {response['status_details']}")
