"""What the server counts and times, in the words of `vllm bench serve --omni`, for Prometheus to read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from omni.events import AudioChunk, Done, Event, Heard, TextDelta, Transcript, Usage

E = TypeVar("E", bound=Event | Heard)
LATENCIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40)
SECONDS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 512)
FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 4)
GAPS = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The figures of one server, in a registry of its own, so that several servers may live in one process.

    Attributes:
        num_waiting, num_running: answers that were asked for and have not begun; that have begun and not ended.
    """

    def __init__(self) -> None:
        self.num_waiting = self.num_running = 0
        to = self.registry = CollectorRegistry()
        ProcessCollector(registry=to)
        self.ttft = Histogram("omni:ttft_s", "From asking to the first text.", registry=to, buckets=LATENCIES)
        self.ttfp = Histogram("omni:audio_ttfp_s", "From asking to the first sound.", registry=to, buckets=LATENCIES)
        self.latency = Histogram(
            "omni:e2e_request_latency_s",
            "From asking to the end of an answer.",
            ["endpoint"],
            registry=to,
            buckets=LATENCIES,
        )
        self.duration = Histogram("omni:audio_duration_s", "Sound in an answer.", registry=to, buckets=SECONDS)
        self.rtf = Histogram(
            "omni:audio_rtf", "Seconds from asking to the end of an answer over its sound's.", registry=to, buckets=FACTORS
        )
        self.underrun = Histogram(
            "omni:audio_underrun_s",
            "Silence inside an answer for who plays it as it is made.",
            registry=to,
            buckets=GAPS,
        )
        waiting = Gauge("omni:num_requests_waiting", "Answers that were asked for and have not begun.", registry=to)
        waiting.set_function(lambda: self.num_waiting)
        running = Gauge("omni:num_requests_running", "Answers that have begun and not ended.", registry=to)
        running.set_function(lambda: self.num_running)
        self.sessions = Gauge("omni:num_sessions", "Open sockets.", registry=to)
        self.answers = Counter("omni:answers", "Answers by how they ended.", ["endpoint", "finish_reason"], registry=to)
        self.prompt_tokens = Counter("omni:prompt_tokens", "Tokens read.", ["kind"], registry=to)
        self.generation_tokens = Counter("omni:generation_tokens", "Tokens made.", ["kind"], registry=to)
        self.refusals = Counter("omni:refusals", "Requests that were refused, by reason.", ["reason"], registry=to)

    def answer(self, endpoint: str) -> Answer:
        """Follows one answer: `with metrics.answer("chat") as seen:` and `seen(event)` for each of its events.

        endpoint: that was asked, one of a fixed few names.
        """
        return Answer(self, endpoint)

    async def watched(self, endpoint: str, events: AsyncGenerator[E]) -> AsyncGenerator[E]:
        """The same events, counted."""
        with self.answer(endpoint) as seen:
            async with aclosing(events):
                async for event in events:
                    seen(event)
                    yield event


class Answer:
    """One answer as Metrics sees it."""

    def __init__(self, metrics: Metrics, endpoint: str) -> None:
        self._metrics, self._endpoint = metrics, endpoint
        self._asked = time.perf_counter()
        self._begun = self._has_text = False
        self._played_out = 0.0
        self._underrun = 0.0
        self._finish = "cancelled"

    def __enter__(self) -> Answer:
        self._metrics.num_waiting += 1
        return self

    def __call__(self, event: Event | Heard) -> None:
        now = time.perf_counter()
        if not self._begun:
            self._begun = True
            self._metrics.num_waiting -= 1
            self._metrics.num_running += 1
        match event:
            case TextDelta():
                if not self._has_text:
                    self._has_text = True
                    self._metrics.ttft.observe(now - self._asked)
            case AudioChunk():
                if not self._played_out:
                    self._metrics.ttfp.observe(now - self._asked)
                else:
                    self._underrun += max(0.0, now - self._played_out)
                self._played_out = max(now, self._played_out) + len(event.samples) / event.sample_rate
            case Done():
                self._finish = event.finish_reason
                self._end(event.usage, event.timings.audio, now)
            case Transcript():
                self._finish = "stop"
                self._end(event.usage, 0.0, now)

    def _end(self, usage: Usage, seconds: float, now: float) -> None:
        """seconds: of speech that was made."""
        metrics = self._metrics
        metrics.latency.labels(self._endpoint).observe(now - self._asked)
        if seconds:
            metrics.duration.observe(seconds)
            metrics.underrun.observe(self._underrun)
            metrics.rtf.observe((now - self._asked) / seconds)
        media = {"image": usage.image_tokens, "video": usage.video_tokens, "audio": usage.audio_tokens}
        for kind, count in {**media, "text": usage.prompt_tokens - sum(media.values())}.items():
            metrics.prompt_tokens.labels(kind).inc(count)
        metrics.generation_tokens.labels("text").inc(usage.text_tokens)
        metrics.generation_tokens.labels("codec").inc(usage.codec_tokens)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._begun:
            self._metrics.num_running -= 1
        else:
            self._metrics.num_waiting -= 1
        failed = isinstance(error, Exception)  # a GeneratorExit or CancelledError is a client that went
        self._metrics.answers.labels(self._endpoint, "failed" if failed else self._finish).inc()
