"""What the engine does next: a pure function of what could be done, of the time, and of what steps cost.

A step does one kind of work for all who are ready for it, because a step for two costs little more than a step for one. What
is left to decide is whose turn it is: that request names the kind, and the others join.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

MAX_REQUESTS = 64
"""Requests in a step."""
CHUNK = 2048
"""Rows of prompts in a step."""
MIN_CHUNK = 64
"""Rows of prompts that a step may hold however little time there is."""
SLICE = 0.05
"""Seconds to which those who join may lengthen a step of ENCODE or VOCODE, in which everybody's rows take their time."""
MARGIN = 0.05
"""Seconds for which sound should lie ready before its listener needs it."""
GRACE = 2.0
"""Seconds for which a request can be asked to wait for a better moment, or for the end of a step."""
GAIN = 0.25
"""Share, of the logarithm of its error, by which a prediction moves with each step."""
LARGEST_ERROR = 4.0
"""A step that lasted for longer than this many times what was expected, or was so much shorter, counts as this much off."""
FASTEST = 1e-6
"""Seconds that any step takes."""


class Kind(IntEnum):
    """What a step does, in the order data takes."""

    ENCODE = 1
    PREFILL = 2
    DECODE = 3
    TALKER_PREFILL = 4
    TALKER_DECODE = 5
    VOCODE = 6


PREFILLS = frozenset({Kind.PREFILL, Kind.TALKER_PREFILL})
"""Work that can be done for some rows now and for the rest later."""
DECODES = frozenset({Kind.DECODE, Kind.TALKER_DECODE})
"""Steps in which a request has a row or two."""
CACHED = PREFILLS | DECODES
"""Work whose rows need places in a KV cache."""
PROMPT = (Kind.ENCODE, Kind.PREFILL, Kind.TALKER_PREFILL)
"""What is done once for each row of a prompt."""


@dataclass(frozen=True)
class Pace:
    """How what is delivered is made, and listened to.

    Attributes:
        per_second: frames of speech that a listener hears; tokens that a reader reads, where nobody speaks.
        chunk: of them, in the longest piece that is delivered at once; records do not tell how many are missing to the next.
        window: frames that this piece of sound is made from; 0 where nobody speaks.
    """

    per_second: float
    chunk: int
    window: int


READING = Pace(per_second=15.0, chunk=1, window=0)
"""At which whoever asked for text alone is taken to read."""


@dataclass(frozen=True)
class Record:
    """A request, as a policy sees it.

    Attributes:
        key: larger for a request that came later.
        arrived: seconds on the engine's clock.
        due: when its listener, or its reader at a reader's pace, runs out of what was delivered; None before the first
            delivery.
        ready: what could be done for it now, and rows of it, at least one.
    """

    key: int
    arrived: float
    due: float | None
    ready: Mapping[Kind, int]


@dataclass(frozen=True)
class Work:
    """A step.

    Attributes:
        parts: key and rows of each request that it serves; all its rows, or for PREFILLS the next of them.
    """

    kind: Kind
    parts: tuple[tuple[int, int], ...]


class Costs:
    """Seconds of a step: a base, something for each request and something for each row, learnt as steps are run.

    A step scales each of the three, more where its share is larger, so that none becomes negative and a wrong start is soon
    left. How far one step can lead is bounded: it may have lasted for as long as the machine slept.
    """

    def __init__(self) -> None:
        self._of = {
            Kind.ENCODE: (5e-3, 1e-3, 3e-5),
            Kind.PREFILL: (4e-3, 5e-4, 3e-5),
            Kind.DECODE: (4e-3, 1e-4, 1e-4),
            Kind.TALKER_PREFILL: (2e-3, 5e-4, 2e-5),
            Kind.TALKER_DECODE: (2e-3, 1e-4, 1e-4),
            Kind.VOCODE: (2e-2, 1e-3, 3e-4),
        }

    def predict(self, kind: Kind, num_requests: int, rows: int) -> float:
        """Seconds of a step with so many requests, and rows in all."""
        base, request, row = self._of[kind]
        return base + request * num_requests + row * rows

    def saw(self, kind: Kind, num_requests: int, rows: int, seconds: float) -> None:
        """Learn from a step."""
        parts = [each * n for each, n in zip(self._of[kind], (1, num_requests, rows), strict=True)]
        expected = sum(parts)
        off = min(max(seconds / expected, 1 / LARGEST_ERROR), LARGEST_ERROR)
        gain = GAIN * expected / sum(p * p for p in parts)
        base, request, row = (each * off ** (gain * p) for each, p in zip(self._of[kind], parts, strict=True))
        self._of[kind] = max(base, FASTEST), request, row


Policy = Callable[[Sequence[Record], float, Costs, Pace], Work | None]


def first_sound_first(records: Sequence[Record], now: float, costs: Costs, pace: Pace) -> Work | None:
    """Sound that is about to be missed, then first sounds, then the rest by when it is due; None if nothing is ready."""
    live = [r for r in records if r.ready]
    hearing = sorted((r for r in live if _hears(r, now)), key=lambda r: (_due(r), r.key))
    waiting = sorted((r for r in live if not _hears(r, now)), key=lambda r: (r.arrived, r.key))
    head, spare = None, 0.0
    if waiting:
        num_thinking = sum(Kind.DECODE in r.ready for r in live)
        num_talking = sum(bool(DECODES & r.ready.keys()) for r in live)
        decode = _decode(num_talking, num_thinking, costs, pace)
        spare = _spare(hearing, now, decode, costs, pace)
        if spare > 0:
            second = (decode + _vocode(costs, pace)) / 2  # that chunk is half as long as the longest
            head = _next_waiting(waiting, now, spare, second, costs)
    if head:
        return _step(head, waiting + hearing, spare, costs)
    return _step(hearing[0], hearing + waiting, spare, costs) if hearing else None


def first_come_first_served(records: Sequence[Record], now: float, costs: Costs, pace: Pace) -> Work | None:
    """The oldest request's work, with the same batching: to compare with."""
    ordered = sorted((r for r in records if r.ready), key=lambda r: (r.arrived, r.key))
    return _step(ordered[0], ordered, math.inf, costs) if ordered else None


def _due(record: Record) -> float:
    return math.inf if record.due is None else record.due


def _hears(record: Record, now: float) -> bool:
    """Whether a request has a listener to be kept supplied; one who ran dry long ago waits like those who heard nothing."""
    return record.due is not None and now - record.due < GRACE


def _decode(num_talking: int, num_thinking: int, costs: Costs, pace: Pace) -> float:
    """Seconds in which so many, in step, find what the longest chunk is made from."""
    think = costs.predict(Kind.DECODE, num_thinking, num_thinking) if num_thinking else 0.0
    talk = costs.predict(Kind.TALKER_DECODE, num_talking, num_talking) if pace.window else 0.0
    return pace.chunk * (think + talk)


def _vocode(costs: Costs, pace: Pace) -> float:
    """Seconds in which the longest chunk becomes sound."""
    return costs.predict(Kind.VOCODE, 1, pace.window) if pace.window else 0.0


def _spare(hearing: Sequence[Record], now: float, decode: float, costs: Costs, pace: Pace) -> float:
    """Seconds that can go to others before one of these, ordered by due, can no longer be sure of what comes next.

    Infinity, too, for a machine that could not even supply one of them: it makes everybody's sound late in any case.
    """
    vocode = _vocode(costs, pace)
    if _decode(1, 1, costs, pace) + vocode > pace.chunk / pace.per_second:
        return math.inf
    needed, spare = MARGIN, math.inf
    for record in hearing:
        window = record.ready.get(Kind.VOCODE)
        if window is None:
            needed += decode + vocode
            decode = 0.0  # the others' are found in the same steps
        else:
            needed += costs.predict(Kind.VOCODE, 1, window)
        spare = min(spare, _due(record) - now - needed)
    return spare


def _next_waiting(waiting: Sequence[Record], now: float, spare: float, second: float, costs: Costs) -> Record | None:
    """Whose turn it is among those, ordered by arrival, who have heard nothing yet; None if they had better wait.

    A prompt waits for as long as it will take and then goes before answers that have begun: once it is read, it joins their
    steps. A first sound is made when there is time for the second as well, and a medium encoded when there is time for the
    whole of it, or else somebody hears a gap.

    second: seconds that a second chunk takes.
    """
    answering: Record | None = None
    prompt: Record | None = None
    turn = math.inf
    for record in waiting:
        kind = max(record.ready)
        patient = now - record.arrived < GRACE
        if kind is Kind.VOCODE:
            if spare > second:
                return record
            if not patient:
                break
        elif kind in PROMPT:
            seconds = sum(costs.predict(k, 1, record.ready[k]) for k in PROMPT if k in record.ready)
            if kind is Kind.ENCODE and patient and seconds > spare:
                continue
            if record.arrived + seconds < turn:
                prompt, turn = record, record.arrived + seconds
        elif answering is None:
            answering = record
    return answering if prompt is None or (answering and turn > now) else prompt


def _step(head: Record, others: Sequence[Record], spare: float, costs: Costs) -> Work:
    """The last kind of work that the head is ready for, with those others who are ready for it, in their order."""
    kind = max(head.ready)
    ready = [(r, rows) for r in others if r is not head and (rows := r.ready.get(kind))]
    rows = head.ready[kind]
    if kind in PREFILLS:
        left = CHUNK
        while left > MIN_CHUNK and costs.predict(kind, 1, left) > min(spare, GRACE):
            left //= 2
        parts = []
        for record, more in [(head, rows), *ready][:MAX_REQUESTS]:
            if left:
                parts.append((record.key, min(more, left)))
                left -= parts[-1][1]
        return Work(kind, tuple(parts))
    parts = [(head.key, rows)]
    for record, more in ready:
        if len(parts) == MAX_REQUESTS:
            break
        if kind is Kind.VOCODE and (record.due is None) != (head.due is None):
            continue  # a first chunk is short and awaited, a later one long and in time
        if kind in DECODES or costs.predict(kind, len(parts) + 1, rows + more) <= SLICE:
            parts.append((record.key, more))
            rows += more
    return Work(kind, tuple(parts))
