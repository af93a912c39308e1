"""The loop: think, talk and voice in turn, until an answer ends (dual track, Qwen2.5-Omni report, section 2.3)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from omni.cache import CachedSequence
from omni.engine.batch import Lane
from omni.engine.lock import FairLock
from omni.engine.request import Request, Speech
from omni.engine.speak import OPENING_ROWS, SpeakStage
from omni.engine.think import ThinkStage
from omni.errors import CapacityError, ContextError, OmniError
from omni.events import Done, Event, Failed, Timings, Usage
from omni.model import Qwen2_5Omni
from omni.prompt import Prompt


class Engine:
    """Runs requests on the model's device, one step at a time.

    Args:
        model: with its weights.
        cache_tokens: rows that the thinker's cache may hold in all, and the talker's.

    Attributes:
        lock: held by whoever uses the device.
    """

    def __init__(self, model: Qwen2_5Omni, *, cache_tokens: int) -> None:
        self.lock = FairLock()
        self.think = ThinkStage(model.thinker, cache_tokens=cache_tokens)
        self.speak: SpeakStage | None = None
        if model.talker and model.token2wav:
            words = model.thinker.embed_tokens.weight
            self.speak = SpeakStage(model.talker, model.token2wav, words, cache_tokens=cache_tokens)

    def check(self, prompt: Prompt) -> None:
        """Raise ContextError where a prompt leaves no room for an answer."""
        longest = min(stage.lane.max_positions for stage in (self.think, self.speak) if stage)
        if prompt.num_tokens + OPENING_ROWS > longest:
            raise ContextError(
                f"the prompt has {prompt.num_tokens} tokens and the model's context {longest}; shorten it, send fewer or "
                "smaller pictures, or sample fewer video frames"
            )

    def check_text(self, prompt: Prompt, num_tokens: int) -> None:
        """Raise ContextError where a text that is to be spoken does not fit behind its prompt."""
        room = self.think.lane.max_positions - prompt.num_tokens
        if num_tokens > room:
            raise ContextError(
                f"the text has {num_tokens} tokens and the model's context {room} left; say it in several calls"
            )

    def run(self, requests: Sequence[Request]) -> Generator[tuple[int, Event | Failed], None, None]:
        """Events of several requests as they are made, each with its request's index; closing the iterator cancels all.

        A request at fault ends with Failed; the others go on.
        """
        try:
            for request in requests:
                self.add(request)
            while True:
                for i, request in enumerate(requests):
                    while request.events:
                        yield i, request.events.popleft()
                live = [r for r in requests if not r.done]
                if not live:
                    return
                for request in live:
                    request.fetch()  # may wait for whoever writes the text, so the device is left to others meanwhile
                self.step(live)
        finally:
            for request in requests:
                self.drop(request)

    def add(self, request: Request) -> None:
        """Read a request's prompt; an answer of the model's own gets its first id."""
        with self.lock, torch.inference_mode(), self._faults_of(request):
            heard = self.think.prefill(request)
            if self.speak and request.speech:
                self.speak.hear(request.speech, *heard)

    def step(self, requests: Sequence[Request]) -> None:
        """One id of text and one codec id for every request that is ready for them, and the sound that is due."""
        with self.lock, torch.inference_mode():
            finding = [(r, r.cache) for r in requests if not r.text_ended and r.given is None]
            finding = self._with_room(self.think.lane, finding)
            with self._faults_of(*(r for r, _ in finding)):
                self.think.find([r for r, _ in finding])
            for request in requests:
                if request.given is not None and not request.text_ended:
                    with self._faults_of(request):
                        self.think.follow(request)
            if self.speak:
                self._speak(self.speak, [(r, r.speech) for r in requests if r.speech and not r.done])
            for request in requests:
                if not request.done and request.text_ended and (request.speech is None or request.speech.finished):
                    self._finish(request)

    def _speak(self, stage: SpeakStage, speaking: Sequence[tuple[Request, Speech]]) -> None:
        begun = [(r, s) for r, s in speaking if s.track.code is not None and not s.ended]
        for request, speech in speaking:
            if speech.track.code is None and not speech.ended:
                with self._faults_of(request):
                    stage.open(request, speech)
        ready = {id(r): (r, s) for r, s in begun if stage.model.ready(s.track)}
        roomy = self._with_room(stage.lane, [(r, s.cache) for r, s in ready.values()])
        with self._faults_of(*(r for r, _ in roomy)):
            stage.step([ready[id(r)] for r, _ in roomy])
        for request, speech in speaking:
            if not request.done:
                with self._faults_of(request):
                    stage.voice(request, speech)

    def drop(self, request: Request) -> None:
        """Free all that a request holds, whether it has ended or not."""
        with self.lock:
            self._release(request)

    def _release(self, request: Request) -> None:
        self.think.lane.pool.release(request.cache)
        if request.speech and self.speak:
            self.speak.lane.pool.release(request.speech.cache)

    @contextmanager
    def _faults_of(self, *requests: Request) -> Iterator[None]:
        """What goes wrong inside ends these requests and no other."""
        try:
            yield
        except (OmniError, torch.OutOfMemoryError) as e:
            full = f"the device is out of memory ({e}); shorten the prompt or end other requests"
            error = e if isinstance(e, OmniError) else CapacityError(full)
            for request in requests:
                request.events.append(Failed(error))
                request.done = True
                self._release(request)

    def _with_room(
        self, lane: Lane, requests: Sequence[tuple[Request, CachedSequence]]
    ) -> list[tuple[Request, CachedSequence]]:
        """Those whose next row has a place in the cache; the others end."""
        for request, cache in requests:
            with self._faults_of(request):
                lane.pool.reserve(cache, 1)
        return [pair for pair in requests if not pair[0].done]

    def _finish(self, request: Request) -> None:
        prompt, speech = request.prompt, request.speech
        request.done = True
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
        reason: Literal["stop", "length"] = "length" if request.limits else "stop"
        request.events.append(Done(reason, tuple(request.limits), request.seed, usage, timings, tuple(request.ids), codes))
        self._release(request)
