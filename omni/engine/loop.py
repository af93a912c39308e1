"""The loop: one kind of work at a time, for all requests that are ready for it.

Stages say what could be done for a request, and do it (dual track, Qwen2.5-Omni report, section 2.3); whose turn it is, is
`scheduler`'s.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch

from omni.engine.admission import Admission
from omni.engine.outbox import Outbox
from omni.engine.request import Phase, Request
from omni.engine.scheduler import CACHED, READING, Costs, Kind, Pace, Policy, Record, Work, first_sound_first
from omni.engine.stage import Stage
from omni.engine.worker import Worker
from omni.errors import CapacityError, ContextError, EngineError, OmniError
from omni.events import Done, Event, Failed
from omni.kernels.threads import keep_torch_alone
from omni.prompt.prompt import Prompt

MAX_REQUESTS = 256
"""Requests that may run or wait at once; more are refused."""


class Engine(Worker):
    """Runs requests on the model's device.

    Requests come in from any thread; their events go out through bounded outboxes. The thread runs while there is work.

    Args:
        stages: in the order that data takes; the first reads the prompt.
        policy: whose turn it is.
        pace: how what is delivered is listened to.
        alone: whether steps are so small that torch had better use one thread.

    Attributes:
        costs: what steps have taken.
    """

    def __init__(
        self, stages: Sequence[Stage], *, policy: Policy = first_sound_first, pace: Pace = READING, alone: bool = False
    ) -> None:
        super().__init__()
        self.stages, self.policy, self.pace, self.costs = stages, policy, pace, Costs()
        self._alone = alone
        self._stage_of = {kind: stage for stage in stages for kind in stage.kinds}
        self._admission = Admission(stages)
        self._live: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._counting = threading.Lock()
        self._next_key = 0
        self._num_open = 0

    def _start(self) -> None:
        if self._alone:
            keep_torch_alone()

    # ---- what other threads call

    @property
    def device(self) -> torch.device:
        """Where prompts are read."""
        return self.stages[0].runner.device

    @property
    def block_size(self) -> int:
        """Rows in a block of the caches; whole blocks of a prompt are found again."""
        return self.stages[0].runner.cache.blocks.block_size

    @property
    def _max_positions(self) -> int:
        return min(stage.runner.max_positions for stage in self.stages)

    @property
    def _opening(self) -> int:
        return max(stage.num_opening_rows for stage in self.stages)

    def check(self, prompt: Prompt) -> None:
        """Raise ContextError where a prompt leaves no room for an answer."""
        if prompt.num_tokens + self._opening > self._max_positions:
            fewer = ", or send fewer or smaller media" if prompt.media else ""
            raise ContextError(
                f"the prompt has {prompt.num_tokens} tokens and the model's context {self._max_positions}; shorten it{fewer}"
            )

    def has_room_for(self, request: Request, num_tokens: int) -> bool:
        """Whether prompt and so many tokens more would fit context and cache, were the request alone."""
        held = min(stage.runner.cache.blocks.max_rows for stage in self.stages)
        return request.prompt.num_tokens + max(self._opening, num_tokens) <= min(self._max_positions, held)

    def check_text(self, prompt: Prompt, num_tokens: int) -> None:
        """Raise ContextError where a text that is to be spoken does not fit behind its prompt."""
        room = self.stages[0].runner.max_positions - prompt.num_tokens
        if num_tokens > room:
            raise ContextError(
                f"the text has {num_tokens} tokens and the model's context {room} left; say it in several calls"
            )

    def submit(self, requests: Sequence[Request], outbox: Outbox) -> None:
        """Take requests in; their events go to the outbox, each with its request's key.

        CapacityError where too many wait already.
        """
        with self._counting:
            if self._num_open + len(requests) > MAX_REQUESTS:
                raise CapacityError(f"{self._num_open} requests run or wait already; try again when some have ended")
            self._num_open += len(requests)
            for request in requests:
                request.key, request.outbox = self._next_key, outbox
                self._next_key += 1
        outbox.drained = self._nudge
        self._post(lambda: self._waiting.extend(requests))

    def cancel(self, requests: Sequence[Request], *, wait: bool = True) -> None:
        """End requests, if they have not ended, and wait for as long as a step takes until all that they held is free."""
        if any(not request.done for request in requests):
            if wait:
                self.call(lambda: self._end_all(requests))
            else:
                self._post(lambda: self._end_all(requests))

    def interrupt(self, request: Request) -> None:
        """End an answer, if it has not ended; its reader is told that it is done."""
        if not request.done:
            self.call(lambda: self._end(request, request.outcome(interrupted=True)))

    def run(self, requests: Sequence[Request]) -> Generator[tuple[int, Event | Failed], None, None]:
        """Events of several requests as they are made, each with its request's index; closing the iterator cancels all.

        A request at fault ends with Failed; the others go on.
        """
        outbox, left = Outbox(), len(requests)
        self.submit(requests, outbox)
        index = {request.key: i for i, request in enumerate(requests)}
        try:
            while left:
                key, event = outbox.get()
                left -= isinstance(event, (Done, Failed))
                yield index[key], event
        finally:
            self.cancel(requests)

    # ---- the thread

    def _step(self) -> bool:
        with self._faults_of(*self._live.values(), *self._waiting):  # so that nobody waits for a loop that stands still
            self._admit()
            records = [self._record(request) for request in self._live.values() if not request.outbox.full]
            work = self.policy(records, time.perf_counter(), self.costs, self.pace)
            if work is None:
                return False
            self._do(work)
        return True

    def _is_idle(self) -> bool:
        return not self._live and not self._waiting

    def _admit(self) -> None:
        """Let in who has room, in order; who made room for others comes first."""
        for request in self._live.values():
            self._admission.resume(request, self._num_running())
        while self._waiting:
            request = self._waiting[0]
            with self._faults_of(request):
                self._admission.check(request)
            if not request.done and not self._has_room_for(request):
                return
            self._waiting.popleft()
            if not request.done:
                with self._faults_of(request):
                    self._begin(request)

    def _has_room_for(self, request: Request) -> bool:
        num_running = self._num_running()
        return num_running == len(self._live) and self._admission.has_room_for(request, num_running)

    def _begin(self, request: Request) -> None:
        self._live[request.key] = request
        request.phase = Phase.PREFILL
        for stage in reversed(self.stages):  # what a later one has to be handed, the earlier ones have to read
            stage.begin(request)
        self._admission.admit(request)
        self._after(request)

    def _num_running(self) -> int:
        return sum(not request.is_preempted for request in self._live.values())

    def _record(self, request: Request) -> Record:
        """What the scheduler knows of a request."""
        if request.is_preempted:
            return Record(request.key, request.started, None, {})
        ready: dict[Kind, int] = {}
        for stage in self.stages:
            ready |= stage.ready(request)
        return Record(request.key, request.started, request.due, ready)

    def _do(self, work: Work) -> None:
        """One step for several requests."""
        started, stage = time.perf_counter(), self._stage_of[work.kind]
        parts = [(self._live[key], rows) for key, rows in work.parts]
        if work.kind in CACHED:
            parts = self._placed(stage, parts)
        requests = [request for request, _ in parts]
        if requests:
            with self._faults_of(*requests):
                stage.run(work.kind, parts)
            self.costs.saw(work.kind, len(parts), sum(rows for _, rows in parts), time.perf_counter() - started)
        for request in requests:
            if not request.done:
                self._after(request)

    def _placed(self, stage: Stage, parts: list[tuple[Request, int]]) -> list[tuple[Request, int]]:
        """Those whose next rows have a place in the cache; others are preempted for them, or wait, or end."""
        for request, rows in parts:
            if not request.is_preempted:
                with self._faults_of(request):
                    self._admission.grow(request, stage, rows, self._live.values())
        return [(r, rows) for r, rows in parts if not r.is_preempted and not r.done]

    def _after(self, request: Request) -> None:
        """See whether a request has ended."""
        if all(stage.is_over(request) for stage in self.stages):
            with self._faults_of(request):
                if request.then:
                    request.then()
                self._end(request, request.outcome())

    @contextmanager
    def _faults_of(self, *requests: Request) -> Iterator[None]:
        """What goes wrong inside ends these requests and no other."""
        try:
            yield
        except Exception as e:  # a fault of ours, or of the device, must not end the thread
            error = _told(e)
            for request in requests:
                self._end(request, Failed(error))

    def _end(self, request: Request, last: Done | Failed | None = None) -> None:
        """Free all that a request holds, and tell its reader."""
        if request.done:
            return
        request.phase = Phase.DONE
        self._live.pop(request.key, None)
        self._admission.release(request)
        with self._counting:
            self._num_open -= 1
        if last:
            request.outbox.put(request.key, last)

    def _end_all(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._end(request)


def _told(e: Exception) -> OmniError:
    """A fault, as its reader is told of it."""
    if isinstance(e, OmniError):
        return e
    if isinstance(e, torch.OutOfMemoryError):
        return CapacityError(f"the device is out of memory ({e}); shorten the prompt or end other requests")
    error = EngineError(f"a step of the engine broke ({type(e).__name__}: {e}); please report it")
    error.__cause__ = e
    return error
