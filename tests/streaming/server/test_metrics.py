"""What the server counts and times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest

from omni import AudioChunk, Done, Event, TextDelta, Timings, Usage
from omni.streaming.server.metrics import Metrics
from tests.streaming.doubles import done


def spoken(seconds: float) -> Done:
    timings = Timings(media=0, prefill=0, first_text=0, first_audio=0, total=0, audio=seconds)
    return Done("stop", (), 0, Usage(20, 4, 3, 2, 5, 50), timings, (), ())


def chunk(seconds: float) -> AudioChunk:
    return AudioChunk(np.zeros(round(24000 * seconds), np.float32), 24000, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def figures(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name, with its labels where it has some; buckets and times of creation left out."""
    out = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name.startswith("omni:") and not sample.name.endswith(("_bucket", "_created")):
                labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
                out[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return out


def follow(metrics: Metrics, clock: list[float], script: Sequence[tuple[float, Event]]) -> None:
    with metrics.answer("chat") as seen:
        for at, event in script:
            clock[0] = 100 + at
            seen(event)


def test_a_spoken_answer(clock: list[float]) -> None:
    metrics = Metrics()
    script: list[tuple[float, Event]] = [
        (0.2, TextDelta("Yes")),
        (0.5, chunk(0.4)),
        (0.6, TextDelta(".")),
        (1.2, chunk(1.0)),
        (1.5, chunk(0.6)),
        (1.6, spoken(2.0)),
    ]
    follow(metrics, clock, script)
    got = figures(metrics)
    assert got["omni:ttft_s_sum"] == pytest.approx(0.2)
    assert got["omni:audio_ttfp_s_sum"] == pytest.approx(0.5)
    assert got["omni:e2e_request_latency_s_sum{endpoint=chat}"] == pytest.approx(1.6)
    assert got["omni:audio_duration_s_sum"] == pytest.approx(2.0)
    assert got["omni:audio_rtf_sum"] == pytest.approx(0.8)
    assert got["omni:audio_underrun_s_sum"] == pytest.approx(0.3)  # from 0.9, when the first sound was over, to 1.2
    counts = {name: value for name, value in got.items() if name.endswith("_count")}
    assert set(counts.values()) == {1.0}
    assert got["omni:answers_total{endpoint=chat,finish_reason=stop}"] == 1
    kinds = {"text": 11, "image": 4, "video": 3, "audio": 2}
    assert {kind: got[f"omni:prompt_tokens_total{{kind={kind}}}"] for kind in kinds} == kinds
    assert got["omni:generation_tokens_total{kind=text}"] == 5
    assert got["omni:generation_tokens_total{kind=codec}"] == 50


def test_an_answer_without_sound_has_no_figures_of_sound(clock: list[float]) -> None:
    metrics = Metrics()
    follow(metrics, clock, [(0.2, TextDelta("Yes.")), (0.3, done())])
    got = figures(metrics)
    assert got["omni:ttft_s_count"] == 1
    assert {got[f"omni:audio_{name}_count"] for name in ("ttfp_s", "duration_s", "rtf", "underrun_s")} == {0.0}


def test_waiting_running_ended() -> None:
    metrics = Metrics()

    def counts() -> tuple[float, float]:
        got = figures(metrics)
        return got["omni:num_requests_waiting"], got["omni:num_requests_running"]

    with metrics.answer("chat") as first, metrics.answer("speech") as second:
        assert counts() == (2, 0)
        first(TextDelta("a"))
        assert counts() == (1, 1)
        first(TextDelta("b"))
        second(chunk(0.1))
        assert counts() == (0, 2)
        second(spoken(0.1))
    assert counts() == (0, 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError, "failed"), (GeneratorExit, "cancelled"), (asyncio.CancelledError, "cancelled"), (None, "cancelled")],
)
@pytest.mark.parametrize("begun", [False, True])
def test_how_it_ended(error: type[BaseException] | None, reason: str, begun: bool) -> None:
    metrics = Metrics()
    with pytest.raises(error) if error else nullcontext(), metrics.answer("chat") as seen:
        if begun:
            seen(TextDelta("a"))
        if error:
            raise error
    got = figures(metrics)
    assert got[f"omni:answers_total{{endpoint=chat,finish_reason={reason}}}"] == 1
    assert (got["omni:num_requests_waiting"], got["omni:num_requests_running"]) == (0, 0)


def test_two_servers_in_one_process_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.refusals.labels("key").inc()
    assert figures(one)["omni:refusals_total{reason=key}"] == 1
    assert "omni:refusals_total{reason=key}" not in figures(other)
