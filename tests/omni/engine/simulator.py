"""An engine without a model: sessions, a policy and a table of prices, on a clock of their own.

`python -m tests.omni.engine.simulator` prints what both policies make of a few loads.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from omni.engine.scheduler import Costs, Kind, Pace, Policy, Record, first_come_first_served, first_sound_first

CODES_PER_BLOCK = 12
SECONDS_PER_CODE = 0.02
HELD_BACK = 0.2
"""Seconds of sound that wait for the chunk behind them: BigVGAN's context."""
OPENING_ROWS = 2
"""What the talker reads between the prompt and the first code."""
READING_PACE = 0.1
"""Seconds for which a token occupies its reader."""
PACE = Pace(per_second=50, chunk=6 * CODES_PER_BLOCK, window=7 * CODES_PER_BLOCK)
GAP = 0.1
"""Seconds of silence that break an answer's continuity."""


class Price(NamedTuple):
    """Seconds of a step, of each request in it and of each of its rows."""

    step: float
    request: float
    row: float


Table = Mapping[Kind, Price]

CPU_SMALL: Table = {
    Kind.ENCODE: Price(10e-3, 0, 0.1e-3),
    Kind.PREFILL: Price(4e-3, 0, 0.05e-3),
    Kind.DECODE: Price(3e-3, 0.3e-3, 0),
    Kind.TALKER_PREFILL: Price(4e-3, 0, 0.05e-3),
    Kind.TALKER_DECODE: Price(4e-3, 0.6e-3, 0),
    Kind.VOCODE: Price(40e-3, 0, 1.2e-3),
}
"""About what the bundled model takes on two cores."""
GPU_7B: Table = {
    Kind.ENCODE: Price(2e-3, 0, 8e-6),
    Kind.PREFILL: Price(4e-3, 0, 18e-6),
    Kind.DECODE: Price(4.1e-3, 35e-6, 0),
    Kind.TALKER_PREFILL: Price(1e-3, 0, 4e-6),
    Kind.TALKER_DECODE: Price(0.9e-3, 15e-6, 0),
    Kind.VOCODE: Price(10e-3, 0, 70e-6),
}
"""A guess at the 7B model on an H100, from rooflines: none of it was measured."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        pause: seconds from the end of the answer before it, or from the session's start, to the question.
        media_rows: to be encoded; prompt_rows: all that the thinker reads, those included.
        num_words: ids of the answer's text.
        num_codes: ids of its speech; 0 for an answer that is only read.
    """

    pause: float
    media_rows: int
    prompt_rows: int
    num_words: int
    num_codes: int


@dataclass(frozen=True)
class Session:
    start: float
    turns: Sequence[Turn]


@dataclass
class Answer:
    """A turn on its way; times are seconds on the simulator's clock.

    Attributes:
        media, prompt, hear: rows still to be encoded, read, and read by the talker.
        num_blocks, num_chunks: of its sound, made so far.
        sound: seconds delivered; due: when they will have been played.
        underrun: seconds for which its listener or reader had to wait.
        longest_wait: seconds between two steps that served it.
    """

    key: int
    turn: Turn
    asked: float
    media: int = field(init=False)
    prompt: int = field(init=False)
    hear: int = field(init=False)
    served: float = field(init=False)
    num_words: int = 0
    num_codes: int = 0
    num_blocks: int = 0
    num_chunks: int = 0
    first_word: float | None = None
    first_sound: float | None = None
    sound: float = 0.0
    due: float | None = None
    underrun: float = 0.0
    longest_wait: float = 0.0

    def __post_init__(self) -> None:
        self.media, self.prompt, self.served = self.turn.media_rows, self.turn.prompt_rows, self.asked
        self.hear = self.prompt + OPENING_ROWS

    @property
    def is_spoken(self) -> bool:
        return self.turn.num_codes > 0

    @property
    def ended(self) -> bool:
        words_ended, codes_ended = self.num_words == self.turn.num_words, self.num_codes == self.turn.num_codes
        return words_ended and codes_ended and self.num_blocks * CODES_PER_BLOCK >= self.num_codes

    def record(self) -> Record:
        """What the engine would tell of it."""
        return Record(self.key, self.asked, self.due, self._ready())

    def _ready(self) -> dict[Kind, int]:
        if self.media:
            return {Kind.ENCODE: self.media}
        if self.prompt:
            return {Kind.PREFILL: self.prompt}
        ready, words_ended = {}, self.num_words == self.turn.num_words
        if not words_ended:
            ready[Kind.DECODE] = 1
        if self.is_spoken and self.num_words:
            if self.hear:
                ready[Kind.TALKER_PREFILL] = self.hear
            elif self.num_codes < self.turn.num_codes and (words_ended or self.num_words > self.num_codes):
                ready[Kind.TALKER_DECODE] = 1
            if stop := self._chunk_stop():
                first = max(0, self.num_blocks - 2) * CODES_PER_BLOCK
                ready[Kind.VOCODE] = min((stop + 1) * CODES_PER_BLOCK, self.num_codes) - first
        return ready

    def _chunk_stop(self) -> int:
        """The block at which the next chunk ends; 0 while codes for it, or its look-ahead, are missing."""
        stop = self.num_blocks + min(2 + self.num_chunks, 6)
        if self.num_codes >= (stop + 1) * CODES_PER_BLOCK:
            return stop
        rest = -(-self.num_codes // CODES_PER_BLOCK)
        return rest if self.num_codes == self.turn.num_codes and rest > self.num_blocks else 0

    def serve(self, kind: Kind, rows: int, now: float) -> None:
        """A step that ends now did these rows."""
        self.longest_wait = max(self.longest_wait, now - self.served)
        self.served = now
        match kind:
            case Kind.ENCODE:
                self.media -= rows
            case Kind.PREFILL:
                self.prompt -= rows
            case Kind.DECODE:
                self.num_words += rows
                self.first_word = self.first_word or now
                if not self.is_spoken:
                    self._deliver(READING_PACE * rows, now)
            case Kind.TALKER_PREFILL:
                self.hear -= rows
                self.num_codes = int(not self.hear)
            case Kind.TALKER_DECODE:
                self.num_codes += rows
            case Kind.VOCODE:
                self.num_blocks, self.num_chunks = self._chunk_stop(), self.num_chunks + 1
                sound = min(self.num_blocks * CODES_PER_BLOCK, self.num_codes) * SECONDS_PER_CODE
                sound -= 0 if self.ended else HELD_BACK
                self.first_sound = self.first_sound or now
                self._deliver(sound - self.sound, now)
                self.sound = sound

    def _deliver(self, seconds: float, now: float) -> None:
        late = max(0.0, now - self.due) if self.due is not None else 0.0
        self.underrun += late
        self.due = (now if self.due is None else self.due + late) + seconds


@dataclass(frozen=True)
class Report:
    """Figures of answers, named as `vllm bench serve --omni` names them; seconds unless told otherwise.

    Attributes:
        num_answers: spoken and read.
        audio_ttfp_p50, audio_ttfp_p99: from the question to the first sound.
        audio_rtf: mean of (question to last sound) over seconds of sound.
        audio_underrun_s: mean silence inside an answer.
        audio_continuity_ok: share of answers with less than `GAP` of it.
        audio_throughput: seconds of sound made in a second.
        ttft_p50, ttft_p99: from the question to the first word of an answer that is only read.
        reader_underrun_s: mean time for which a reader waited inside an answer.
        longest_wait: longest time for which an answer was not served at all.
    """

    num_answers: int
    audio_ttfp_p50: float
    audio_ttfp_p99: float
    audio_rtf: float
    audio_underrun_s: float
    audio_continuity_ok: float
    audio_throughput: float
    ttft_p50: float
    ttft_p99: float
    reader_underrun_s: float
    longest_wait: float


@dataclass(frozen=True)
class Run:
    """What came of some sessions.

    Attributes:
        seconds: from zero to the end of the last step.
        busy: share of them in which the machine was at work.
    """

    answers: Sequence[Answer]
    seconds: float
    busy: float
    num_steps: int

    def report(self, which: Callable[[Answer], bool] = lambda answer: True) -> Report:
        """Figures of some of the answers."""
        chosen = [a for a in self.answers if which(a)]
        spoken, read = [a for a in chosen if a.is_spoken], [a for a in chosen if not a.is_spoken]
        sounds = [a.first_sound - a.asked for a in spoken if a.first_sound is not None]
        words = [a.first_word - a.asked for a in read if a.first_word is not None]
        return Report(
            num_answers=len(chosen),
            audio_ttfp_p50=percentile(sounds, 0.5),
            audio_ttfp_p99=percentile(sounds, 0.99),
            audio_rtf=mean([(a.served - a.asked) / a.sound for a in spoken]),
            audio_underrun_s=mean([a.underrun for a in spoken]),
            audio_continuity_ok=mean([float(a.underrun < GAP) for a in spoken]),
            audio_throughput=sum(a.sound for a in spoken) / self.seconds,
            ttft_p50=percentile(words, 0.5),
            ttft_p99=percentile(words, 0.99),
            reader_underrun_s=mean([a.underrun for a in read]),
            longest_wait=max((a.longest_wait for a in chosen), default=0.0),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; 0 of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def simulate(sessions: Sequence[Session], table: Table, policy: Policy, *, jitter: float = 0.1, seed: int = 0) -> Run:
    """Run sessions to their ends; a policy learns prices as the engine's would.

    Args:
        jitter: standard deviation of the logarithm of a step's seconds.
    """
    rng, costs = random.Random(seed), Costs()
    asks = [(s.start + s.turns[0].pause, i, 0) for i, s in enumerate(sessions)]
    heapq.heapify(asks)
    answers: list[Answer] = []
    turns: list[tuple[int, int]] = []
    records: dict[int, Record] = {}
    now = busy = 0.0
    num_steps = 0
    while asks or records:
        while asks and asks[0][0] <= now:
            asked, session, turn = heapq.heappop(asks)
            answers.append(Answer(len(answers), sessions[session].turns[turn], asked))
            turns.append((session, turn))
            records[answers[-1].key] = answers[-1].record()
        work = policy(list(records.values()), now, costs, PACE)
        if work is None:
            assert not records, "something could be done and nothing is"
            now = asks[0][0]
            continue
        price, num_requests, rows = table[work.kind], len(work.parts), sum(rows for _, rows in work.parts)
        seconds = (price.step + price.request * num_requests + price.row * rows) * math.exp(rng.gauss(0, jitter))
        costs.saw(work.kind, num_requests, rows, seconds)
        now, busy, num_steps = now + seconds, busy + seconds, num_steps + 1
        for key, part in work.parts:
            answer = answers[key]
            answer.serve(work.kind, part, now)
            if not answer.ended:
                records[key] = answer.record()
                continue
            del records[key]
            session, turn = turns[key]
            if turn + 1 < len(sessions[session].turns):
                assert answer.due is not None
                heapq.heappush(asks, (answer.due + sessions[session].turns[turn + 1].pause, session, turn + 1))
    return Run(answers, now, busy / now, num_steps)


def calls(
    num_sessions: int,
    per_second: float,
    *,
    num_turns: int = 2,
    read: float = 0.0,
    long: float = 0.0,
    long_rows: tuple[int, int] = (2000, 20000),
    seed: int = 0,
) -> list[Session]:
    """Sessions that begin as a Poisson process and ask aloud, for 2 to 8 s; answers are of 10 to 80 words.

    Args:
        per_second: sessions that begin.
        read: share of questions that are written and whose answers are read.
        long: share of questions about a text of so many rows as `long_rows` tells.
    """
    rng = random.Random(seed)
    start, sessions = 0.0, []
    for _ in range(num_sessions):
        start += rng.expovariate(per_second)
        turns = []
        for i in range(num_turns):
            is_read, is_long = rng.random() < read, rng.random() < long
            media_rows = 0 if is_read else rng.randint(50, 200)
            num_words = rng.randint(10, 80)
            turns.append(
                Turn(
                    pause=rng.uniform(1, 4) if i else 0.0,
                    media_rows=media_rows,
                    prompt_rows=media_rows + (rng.randint(*long_rows) if is_long else rng.randint(20, 100)),
                    num_words=num_words * 4 if is_read else num_words,
                    num_codes=0 if is_read else round(num_words * rng.uniform(3, 4.5)),
                )
            )
        sessions.append(Session(start, turns))
    return sessions


def main() -> None:
    tables = {"CPU_SMALL": (CPU_SMALL, (0.1, 0.25, 0.35, 0.6)), "GPU_7B": (GPU_7B, (2.0, 5.0, 9.0, 13.0))}
    print(
        "| table | rate | mix | policy | busy | ttfp p50 | p99 | rtf | underrun | continuity | throughput | ttft p50 | p99 |"
    )
    print("|---" * 13 + "|")
    for name, (table, rates) in tables.items():
        for rate in rates:
            for mix, how in {"speech": (0.0, 0.0), "mixed": (0.3, 0.1)}.items():
                sessions = calls(1000, rate, read=how[0], long=how[1])
                for policy in (first_come_first_served, first_sound_first):
                    run = simulate(sessions, table, policy)
                    r = run.report()
                    print(
                        f"| {name} | {rate} | {mix} | {policy.__name__} | {run.busy:.2f} | {r.audio_ttfp_p50:.2f} | "
                        f"{r.audio_ttfp_p99:.2f} | {r.audio_rtf:.2f} | {r.audio_underrun_s:.3f} | "
                        f"{r.audio_continuity_ok:.3f} | {r.audio_throughput:.1f} | {r.ttft_p50:.2f} | {r.ttft_p99:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
