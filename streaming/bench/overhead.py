"""The server's own time: from what the model makes to the frame on its way, with a model whose times are known.

The model is scripted and costs nothing; microphones are on meanwhile, as listening for turns takes its time from the same
loop. All stamps are of one monotonic clock of the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean

from omni.streaming.bench.caller import SOUND, CallError, Place, calling
from omni.streaming.bench.script import STEADY_SOUND, Made, Sent, number_of, timed
from omni.streaming.bench.servers import scripted
from omni.streaming.bench.spread import Spread

ANSWERS = 4
"""In all, whatever the number of sessions."""
MOST_MS = 1.0
"""The mark: of the server's time on a chunk, at the median."""
NOTHING = 0.001
"""Seconds of sound that count as none."""


@dataclass(frozen=True)
class Figures:
    """Attributes:
    sound_ms: from a chunk's making until its frame is handed to the socket, where it may go at once.
    client_ms: from its making until the client has it, which holds the writing, the kernel and the client's waking.
    words_ms: the same as sound_ms for words that are made behind sound which waits until it is due.
    overtaken_s: mean seconds of sound, made before such words, that still waited when they were sent.
    queued: of such words, how many were sent only after all of it.
    faults: what went wrong, in words.
    """

    sessions: int
    sound_ms: Spread
    client_ms: Spread
    words_ms: Spread
    overtaken_s: float
    queued: int
    faults: tuple[str, ...]


async def overhead(sessions: int, *, answers: int = ANSWERS, seed: int = 0) -> Figures:
    """What so many callers at once find, each of whom has a share of so many answers made."""
    received: dict[int, float] = {}
    faults: list[str] = []
    async with scripted(timed()) as server, asyncio.TaskGroup() as group:
        for i in range(sessions):
            rng, share = Random(f"{seed} {i}"), -(-answers // sessions)
            group.create_task(_call(server.place, share, rng, received, faults))
    return figures(sessions, server.made, server.sent, received, faults)


async def _call(place: Place, answers: int, rng: Random, received: dict[int, float], faults: list[str]) -> None:
    try:
        async with calling(place) as caller:
            played_out = 0.0
            for _ in range(answers):
                # what is still to be played would hold back this answer's sound
                await asyncio.sleep(max(0.0, played_out - time.perf_counter()) + rng.uniform(0, STEADY_SOUND))
                await caller.send("response.create")
                last = 0
                while (told := await caller.next()).type != "response.done":
                    if told.type == SOUND:
                        number = number_of(told.sound)
                        if number < last:
                            faults.append(f"sound {number} came after {last}")
                        last = number
                        received.setdefault(number, told.at)
                        played_out = max(played_out, told.at) + told.seconds
            faults += caller.order.faults
    except CallError as e:
        faults.append(str(e))


def figures(
    sessions: int, made: Sequence[Made], sent: Sequence[Sent], received: Mapping[int, float], faults: Sequence[str] = ()
) -> Figures:
    """received: when the client had the first piece of each chunk, by its number."""
    gone: dict[int, float] = {}
    for piece in sent:
        gone.setdefault(piece.number, piece.at)
    chunks = [each for each in made if 0 < each.sound <= STEADY_SOUND and each.number in gone]
    words, overtaken = list[float](), list[float]()
    for each in made:
        if each.sound or each.number not in gone:
            continue
        before = [other for other in made if other.answer == each.answer and other.number < each.number]
        if _waiting(before, sent, each.at) > NOTHING:
            words.append(gone[each.number] - each.at)
            overtaken.append(_waiting(before, sent, gone[each.number]))
    return Figures(
        sessions=sessions,
        sound_ms=Spread.of(gone[each.number] - each.at for each in chunks),
        client_ms=Spread.of(received[each.number] - each.at for each in chunks if each.number in received),
        words_ms=Spread.of(words),
        overtaken_s=mean(overtaken) if overtaken else float("nan"),
        queued=sum(left <= NOTHING for left in overtaken),
        faults=tuple(faults),
    )


def _waiting(chunks: Iterable[Made], sent: Iterable[Sent], at: float) -> float:
    """Seconds of their sound that had not been sent by then."""
    seconds = {each.number: each.sound for each in chunks}
    return sum(seconds.values()) - sum(piece.sound for piece in sent if piece.number in seconds and piece.at < at)
