"""The loop: one thread that owns the device and does one kind of work at a time, for all requests that are ready for it.

Encode, read, think, hear, talk and voice (dual track, Qwen2.5-Omni report, section 2.3); whose turn it is, is `scheduler`'s.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar, get_args
from weakref import WeakSet

import torch

from omni.engine.admission import Room
from omni.engine.outbox import Hungry, Outbox
from omni.engine.request import Request
from omni.engine.scheduler import Costs, Kind, Policy, Record, Work, first_sound_first
from omni.engine.speak import OPENING_ROWS, SpeakStage
from omni.engine.think import ThinkStage
from omni.errors import CapacityError, ContextError, EngineError, OmniError
from omni.events import Done, Event, Failed, FinishReason, Limit, Timings, Usage
from omni.loading.device import leave_cores
from omni.models.model import OmniModel
from omni.prompt.reader import Prompt

T = TypeVar("T")
MAX_REQUESTS = 256
"""Requests that may run or wait at once; more are refused."""
LINGER = 2.0
"""Seconds that the thread waits for more before it ends."""
READING_PACE = 15.0
"""Tokens a second at which whoever asked for text alone is taken to read."""
OPENING_CHUNK = 1024
"""Rows of a prompt that the talker may read together with its opening; longer ones it hears before."""


class Engine:
    """Runs requests on the model's device.

    Requests come in from any thread; their events go out through bounded outboxes. The thread runs while there is work.

    Args:
        model: with its weights.
        cache_tokens: rows that the thinker's cache may hold in all, and the talker's.
        policy: whose turn it is.
        graphs: on a GPU, replay recorded steps.

    Attributes:
        costs: what steps have taken.
    """

    def __init__(
        self, model: OmniModel, *, cache_tokens: int, policy: Policy = first_sound_first, graphs: bool = True
    ) -> None:
        self.think = ThinkStage(model.thinker, cache_tokens=cache_tokens, graphs=graphs)
        self.speak: SpeakStage | None = None
        if model.talker and model.token2wav:
            words = model.thinker.embed_tokens.weight
            self.speak = SpeakStage(model.talker, model.token2wav, words, cache_tokens=cache_tokens, graphs=graphs)
        self.policy, self.costs = policy, Costs()
        self._room = Room(self.think.lane.pool, self.speak.lane.pool if self.speak else None)
        self._live: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._next_key = 0
        self._num_open = 0

    # ---- what other threads call

    def check(self, prompt: Prompt) -> None:
        """Raise ContextError where a prompt leaves no room for an answer."""
        longest = min(stage.lane.max_positions for stage in (self.think, self.speak) if stage)
        if prompt.num_tokens + OPENING_ROWS > longest:
            raise ContextError(
                f"the prompt has {prompt.num_tokens} tokens and the model's context {longest}; shorten it, send fewer or "
                "smaller pictures, or sample fewer video frames"
            )

    def has_room_for(self, request: Request, num_tokens: int) -> bool:
        """Whether prompt and so many tokens more would fit context and cache, were the request alone."""
        longest = min(stage.lane.max_positions for stage in (self.think, self.speak) if stage)
        held = min(stage.lane.pool.max_pages * stage.lane.pool.page_size for stage in (self.think, self.speak) if stage)
        return request.prompt.num_tokens + max(OPENING_ROWS, num_tokens) <= min(longest, held)

    def check_text(self, prompt: Prompt, num_tokens: int) -> None:
        """Raise ContextError where a text that is to be spoken does not fit behind its prompt."""
        room = self.think.lane.max_positions - prompt.num_tokens
        if num_tokens > room:
            raise ContextError(
                f"the text has {num_tokens} tokens and the model's context {room} left; say it in several calls"
            )

    def submit(self, requests: Sequence[Request], outbox: Outbox) -> None:
        """Take requests in; their events go to the outbox, each with its request's key.

        CapacityError where too many wait already.
        """
        leave_cores()
        with self._wake:
            if self._num_open + len(requests) > MAX_REQUESTS:
                raise CapacityError(f"{self._num_open} requests run or wait already; try again when some have ended")
            self._num_open += len(requests)
            for request in requests:
                request.key, request.outbox = self._next_key, outbox
                self._next_key += 1
        outbox.drained = self._nudge
        self._post(lambda: self._waiting.extend(requests))

    def feed(self, request: Request, ids: Sequence[int], *, ended: bool) -> None:
        """More of a text that is to be spoken word for word."""
        self._post(lambda: self._take(request, ids, ended))

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
            self.call(lambda: None if request.done else self._finish(request, interrupted=True))

    def call(self, work: Callable[[], T]) -> T:
        """Have the engine's thread do something between two steps, and wait for it."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as e:
                future.set_exception(e)

        self._post(do)
        return future.result()

    def answers(self, timeout: float) -> bool:
        """Whether the thread takes a message within so many seconds."""
        taken = threading.Event()
        self._post(taken.set)
        return taken.wait(timeout)

    def run(
        self, requests: Sequence[Request], given: Iterator[list[int]] | None = None
    ) -> Generator[tuple[int, Event | Failed], None, None]:
        """Events of several requests as they are made, each with its request's index; closing the iterator cancels all.

        A request at fault ends with Failed; the others go on.

        given: ids of a text that the one request is to speak and that is still being written, asked for as it is needed.
        """
        outbox, left = Outbox(), len(requests)
        self.submit(requests, outbox)
        index = {request.key: i for i, request in enumerate(requests)}
        try:
            while left:
                key, event = outbox.get()
                if isinstance(event, Hungry):
                    assert given is not None, "nobody here feeds it"
                    ids = next(given, None)
                    self.feed(requests[index[key]], ids or [], ended=ids is None)
                    continue
                left -= isinstance(event, (Done, Failed))
                yield index[key], event
        finally:
            self.cancel(requests)

    # ---- the thread

    def _post(self, message: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="omni-engine", daemon=True)
                self._stopping = False
                _RUNNING.add(self)
                self._thread.start()
            self._wake.notify()

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def stop(self) -> None:
        """End the thread, whatever it was doing; requests that run get no more events."""
        thread = self._thread
        if thread:
            with self._wake:
                self._stopping = True
                self._wake.notify()
            thread.join()

    @torch.inference_mode()
    def _loop(self) -> None:
        while True:
            with self._wake:
                messages, stopping = list(self._inbox), self._stopping
                self._inbox.clear()
                if stopping:
                    self._thread = None
                    return
            for message in messages:
                message()
            with self._faults_of_all():
                self._admit()
                records = [self._record(request) for request in self._live.values() if not request.outbox.full]
                work = self.policy(records, time.perf_counter(), self.costs)
                if work:
                    self._do(work)
                    continue
            with self._wake:
                if not self._inbox and not self._stopping:
                    idle = not self._live and not self._waiting
                    nudged = self._wake.wait(LINGER if idle else None)
                    if idle and not nudged and not self._inbox:
                        self._thread = None
                        return

    def _take(self, request: Request, ids: Sequence[int], ended: bool) -> None:
        if request.done:
            return
        assert request.given is not None
        with self._faults_of(request):
            self.check_text(request.prompt, len(request.ids) + len(request.given) + len(ids))
            request.given += ids
            request.given_ended, request.hungry = ended, False
            self._ask(request)

    def _admit(self) -> None:
        """Let in who has room, in order; who made room for others comes first."""
        for request in self._live.values():
            self._room.bring_back(request, self._num_running())
        while self._waiting:
            request = self._waiting[0]
            with self._faults_of(request):
                self._room.check(request)
            if not request.done and (self._num_aside() or not self._room.has_room_for(request, self._num_running())):
                return
            self._waiting.popleft()
            if not request.done:
                with self._faults_of(request):
                    self._begin(request)

    def _begin(self, request: Request) -> None:
        self._live[request.key] = request
        num_pages = None
        if self.speak and request.speech:  # what the talker has to read of the prompt, the thinker has to read first
            num_pages = self.speak.begin_reading(request, request.speech)
        self.think.begin_reading(request, num_pages)
        self._room.take(request)
        if request.only_reads:
            self._after_reading(request)

    def _num_running(self) -> int:
        return sum(not request.is_aside for request in self._live.values())

    def _num_aside(self) -> int:
        return len(self._live) - self._num_running()

    def _record(self, request: Request) -> Record:
        """What the scheduler knows of a request."""
        speech, ready = request.speech, dict[Kind, int]()
        due: float | None = None
        if request.is_aside:
            return Record(request.key, request.started, None, ready)
        if request.num_unread:
            if wanted := request.wanted_media():
                ready[Kind.ENCODE] = request.prompt.rows_of(wanted[0])
            else:
                ready[Kind.READ] = request.num_unread
        elif (
            not request.text_ended
            and not request.only_reads
            and (request.given is None or request.given or request.given_ended)
        ):
            ready[Kind.THINK] = 1 if request.given is None else max(1, len(request.given))
        if speech and self.speak:
            opening = 0 if request.only_reads else OPENING_CHUNK
            if not request.num_unread and self.speak.num_unread(speech) > opening:
                ready[Kind.HEAR] = self.speak.num_unread(speech) - opening
            elif not request.num_unread and self.speak.ready(speech):
                ready[Kind.TALK] = self.speak.num_rows(speech)
            if num := self.speak.vocoder.due(speech.sound):
                ready[Kind.VOICE] = num
            due = speech.due
        elif request.first_text is not None:
            due = request.started + request.first_text + len(request.ids) / READING_PACE
        return Record(request.key, request.started, due, ready)

    def _do(self, work: Work) -> None:
        """One step for several requests."""
        started = time.perf_counter()
        parts = [(self._live[key], rows) for key, rows in work.parts]
        if work.kind in (Kind.READ, Kind.THINK):
            parts = self._with_room(self.think, parts)
        elif work.kind in (Kind.HEAR, Kind.TALK):
            parts = self._with_room(self.speak, parts)
        requests = [request for request, _ in parts]
        if requests:
            with self._faults_of(*requests):
                self._step(work.kind, parts)
            self.costs.saw(work.kind, len(parts), sum(rows for _, rows in parts), time.perf_counter() - started)
        for request in requests:
            if not request.done:
                self._after(request)

    def _step(self, kind: Kind, parts: Sequence[tuple[Request, int]]) -> None:
        requests = [request for request, _ in parts]
        speaking = [(r, r.speech) for r in requests if r.speech]
        match kind:
            case Kind.ENCODE:
                self.think.see(requests)
            case Kind.READ:
                firsts = [r.cache.length for r in requests]
                for request, at, heard in zip(requests, firsts, self.think.read(parts), strict=True):
                    if self.speak and request.speech:
                        self.speak.keep(request.speech, at, *heard)
            case Kind.THINK:
                self.think.find(requests)
            case Kind.HEAR:
                assert self.speak
                self.speak.read([(r, r.speech, num) for r, num in parts if r.speech])
            case Kind.TALK:
                assert self.speak
                self.speak.step(speaking)
            case Kind.VOICE:
                assert self.speak
                self.speak.voice(speaking)

    def _after(self, request: Request) -> None:
        """See whether a request has ended, or waits for its reader."""
        speech = request.speech
        if request.only_reads:
            self._after_reading(request)
            return
        if speech and self.speak:
            if request.text_ended and speech.track.code is None and not speech.track.rows and not speech.ended:
                self.speak.end(speech)  # an empty answer is silent
            over = speech.ended and not self.speak.vocoder.due(speech.sound)
        else:
            over = True
        self._ask(request)
        if request.text_ended and over:
            self._finish(request)

    def _after_reading(self, request: Request) -> None:
        if request.num_unread or (request.speech and self.speak and self.speak.num_unread(request.speech)):
            return
        with self._faults_of(request):
            if request.then:
                request.then()
        if not request.done:
            self._finish(request)

    @staticmethod
    def _ask(request: Request) -> None:
        """Ask for more of a text that is to be spoken, once the talker has no more of it."""
        speech = request.speech
        if request.given is None or request.given or request.given_ended or request.hungry or request.num_unread:
            return
        if speech and speech.ended:  # at its limit: nothing more is asked of whoever writes the text
            request.given_ended = True
        elif not speech or not speech.track.rows:
            request.hungry = True
            request.outbox.put(request.key, Hungry())

    @contextmanager
    def _faults_of(self, *requests: Request) -> Iterator[None]:
        """What goes wrong inside ends these requests and no other."""
        try:
            yield
        except Exception as e:
            if isinstance(e, OmniError):
                error: OmniError = e
            elif isinstance(e, torch.OutOfMemoryError):
                error = CapacityError(f"the device is out of memory ({e}); shorten the prompt or end other requests")
            else:
                error = EngineError(f"a step of the engine broke ({type(e).__name__}: {e}); please report it")
                error.__cause__ = e
            for request in requests:
                self._end(request, Failed(error))

    @contextmanager
    def _faults_of_all(self) -> Iterator[None]:
        """What goes wrong between two steps ends all requests, so that nobody waits for a loop that stands still."""
        with self._faults_of(*self._live.values(), *self._waiting):
            try:
                yield
            except Exception:
                self._waiting.clear()
                raise

    def _with_room(
        self, stage: ThinkStage | SpeakStage | None, parts: list[tuple[Request, int]]
    ) -> list[tuple[Request, int]]:
        """Those whose next rows have a place in the cache; others make room for them, or wait, or end."""
        assert stage
        for request, rows in parts:
            if not request.is_aside:
                with self._faults_of(request):
                    self._room.make(request, stage.lane.pool, rows, self._live.values())
        return [(r, rows) for r, rows in parts if not r.is_aside and not r.done]

    def _end(self, request: Request, last: Done | Failed | None = None) -> None:
        """Free all that a request holds, and tell its reader."""
        if request.done:
            return
        request.done = True
        self._live.pop(request.key, None)
        self._room.release(request)
        with self._wake:
            self._num_open -= 1
        if last:
            request.outbox.put(request.key, last)

    def _end_all(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._end(request)

    def _finish(self, request: Request, *, interrupted: bool = False) -> None:
        prompt, speech = request.prompt, request.speech
        codes = tuple(speech.codes) if speech else ()
        usage = Usage(
            prompt_tokens=prompt.num_tokens,
            image_tokens=prompt.image_tokens,
            video_tokens=prompt.video_tokens,
            audio_tokens=prompt.audio_tokens,
            text_tokens=len(request.ids),
            codec_tokens=len(codes),
        )
        timings = Timings(
            media=request.media_read,
            prefill=request.prefilled or 0.0,
            first_text=request.first_text,
            first_audio=request.first_audio,
            total=request.elapsed(),
            audio=speech.num_samples / self.speak.vocoder.sample_rate if speech and self.speak else 0.0,
        )
        limits = tuple(limit for limit in get_args(Limit) if limit in request.limits)
        reason: FinishReason = "interrupted" if interrupted else "length" if limits else "stop"
        done = Done(reason, limits, request.seed, usage, timings, tuple(request.ids), codes)
        self._end(request, done)


_RUNNING: WeakSet[Engine] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads inside torch while the interpreter goes down would crash it."""
    for engine in list(_RUNNING):
        engine.stop()
