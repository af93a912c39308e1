"""Load on the server: listeners who ask aloud at random times, and what they hear, by their own clocks.

Fields are named as in `omni bench load`. Here a question ends with its last voiced sample, so that times to the first sound
hold the silence by which the server knows that a turn is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from statistics import mean

from omni.streaming.audio.wire import Samples
from omni.streaming.bench.caller import SOUND, Caller, CallError, Place, Refused, calling
from omni.streaming.bench.recordings import Conversation
from omni.streaming.bench.spread import Spread, percentile

PAUSE = 1.0
"""Mean seconds, exponentially spread, between the end of an answer's sound and the next question of a listener."""
SMOOTH = 0.1
"""Seconds of silence inside an answer below which it counts as continuous."""
TOLD_FAULTS = 5


@dataclass
class Answer:
    """What one question got.

    Attributes:
        ttfp: seconds from the question's last voiced sample to the first sound; None where there was none.
        underrun: seconds in which its player had nothing to play, between the first sound and the last.
        audio, total: seconds of sound, and from the end of the question until all of it was there.
        breaks: how often the server took a pause in the question for its end, and was told better.
    """

    asked: float
    ttfp: float | None = None
    underrun: float = 0.0
    audio: float = 0.0
    total: float = 0.0
    breaks: int = 0
    played_out: float = 0.0

    def hear(self, at: float, seconds: float) -> None:
        """So many seconds of sound came."""
        if self.ttfp is None:
            self.ttfp = at - self.asked
        else:
            self.underrun += max(0.0, at - self.played_out)
        self.played_out = max(at, self.played_out) + seconds
        self.audio += seconds
        self.total = at - self.asked


@dataclass(frozen=True)
class Figures:
    """Of all answers of one run; milliseconds and seconds by their names.

    Attributes:
        served: listeners who got an answer, and to whom nothing went wrong.
        refused: conversations that were not let in; failed: turns without a whole answer; disordered: events that came
            where they mean nothing; broken_questions: pauses that were taken for the end of a question.
        microphone_late_ms: how late the bench itself was; where it is long, the other times are the bench's too.
        faults: some of what went wrong, in words.
    """

    sessions: int
    served: int
    requests: int
    failed: int
    refused: int
    disordered: int
    broken_questions: int
    mean_audio_ttfp_ms: float
    median_audio_ttfp_ms: float
    p99_audio_ttfp_ms: float
    mean_e2el_ms: float
    mean_audio_rtf: float
    audio_underrun_s: float
    continuity_ok: float
    audio_duration_s: float
    audio_throughput: float
    request_throughput: float
    microphone_late_ms: Spread
    faults: tuple[str, ...]


@dataclass
class Listener:
    """What one of them met with."""

    answers: list[Answer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    @property
    def served(self) -> bool:
        return bool(self.answers) and not (self.refused or self.failed or self.disordered)


async def warm(place: Place, conversations: Sequence[Conversation], sessions: int) -> None:
    """One question of each of so many listeners, which nobody times. Refused where they are not let in."""

    async def once(i: int) -> None:
        conversation = conversations[i % len(conversations)]
        async with calling(place) as caller:
            with suppress(CallError):  # what fails will do so again, when it is counted
                await caller.show(conversation.picture)
                await ask(caller, conversation.questions[0])

    for done in await asyncio.gather(*map(once, range(sessions)), return_exceptions=True):
        if isinstance(done, BaseException):
            raise done


async def load(
    place: Place, conversations: Sequence[Conversation], sessions: int, seconds: float, *, seed: int = 0
) -> Figures:
    """Let so many listeners begin one conversation after the other; after so many seconds nobody asks any more.

    conversations: with utterances alone, as `utterances_of` cuts them.
    """
    began, listeners = time.perf_counter(), [Listener() for _ in range(sessions)]
    async with asyncio.TaskGroup() as group:
        for i, listener in enumerate(listeners):
            rng = Random(f"{seed} {i}")
            group.create_task(_listen(place, conversations, listener, began + seconds, rng))
    return figures(listeners, time.perf_counter() - began)


async def _listen(place: Place, conversations: Sequence[Conversation], listener: Listener, end: float, rng: Random) -> None:
    async def waited() -> bool:
        await asyncio.sleep(rng.expovariate(1 / PAUSE))
        return time.perf_counter() < end

    while await waited():
        conversation = rng.choice(conversations)
        try:
            async with calling(place) as caller:
                try:
                    await caller.show(conversation.picture)
                    for utterance in conversation.questions:
                        if not await waited():
                            break
                        listener.answers.append(answer := await ask(caller, utterance))
                        await asyncio.sleep(max(0.0, answer.played_out - time.perf_counter()))
                finally:
                    listener.disordered += caller.order.faults
                    listener.late += caller.late
        except Refused as e:
            listener.refused.append(str(e))
        except CallError as e:
            listener.failed.append(str(e))


async def ask(caller: Caller, utterance: Samples) -> Answer:
    """Ask aloud, and hear the answer. CallError where there is none, or not all of it."""
    said, breaks = caller.say(utterance), 0
    answer: Answer | None = None
    while True:
        told = await caller.next()
        if told.type == "response.created" and told.at > said.ended:
            answer = Answer(said.ended, breaks=breaks)
        elif told.type == "response.created":
            breaks += 1
        elif answer and told.type == SOUND:
            answer.hear(told.at, told.seconds)
        elif answer and told.type == "response.done":
            status = told.event["response"]["status"]
            if status != "completed":
                raise CallError(f"the answer is {status}: {told.event['response']['status_details']}")
            if answer.ttfp is None:
                raise CallError("the answer has no sound")
            return answer


def figures(listeners: Sequence[Listener], seconds: float) -> Figures:
    """What they met with in a run of so many seconds."""
    answers = [answer for each in listeners for answer in each.answers]
    first = sorted(1000 * a.ttfp for a in answers if a.ttfp is not None)
    audio = sum(a.audio for a in answers)
    faults = [fault for each in listeners for fault in (*each.refused, *each.failed, *each.disordered)]
    return Figures(
        sessions=len(listeners),
        served=sum(each.served for each in listeners),
        requests=len(answers),
        failed=sum(len(each.failed) for each in listeners),
        refused=sum(len(each.refused) for each in listeners),
        disordered=sum(len(each.disordered) for each in listeners),
        broken_questions=sum(a.breaks for a in answers),
        mean_audio_ttfp_ms=_mean(first),
        median_audio_ttfp_ms=percentile(first, 0.5),
        p99_audio_ttfp_ms=percentile(first, 0.99),
        mean_e2el_ms=_mean([1000 * a.total for a in answers]),
        mean_audio_rtf=_mean([a.total / a.audio for a in answers]),
        audio_underrun_s=sum(a.underrun for a in answers),
        continuity_ok=_mean([float(a.underrun < SMOOTH) for a in answers]),
        audio_duration_s=audio,
        audio_throughput=audio / seconds,
        request_throughput=len(answers) / seconds,
        microphone_late_ms=Spread.of(late for each in listeners for late in each.late),
        faults=tuple(faults[:TOLD_FAULTS]),
    )


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else float("nan")
