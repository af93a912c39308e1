"""The bench of the server: what it makes of the times of events, and each of its parts against a scripted model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from omni import Budget, Omni
from omni.cli import bench as cli_bench
from omni.cli.app import app
from omni.errors import EngineError, EvaluationError
from omni.streaming.audio.turn_detection import ServerVad, SpeechStopped, TurnDetector
from omni.streaming.audio.wire import Samples
from omni.streaming.bench import barge_in as bench_barge_in
from omni.streaming.bench import load as bench_load
from omni.streaming.bench import overhead as bench_overhead
from omni.streaming.bench import run as bench
from omni.streaming.bench.barge_in import MOST_MS, Request
from omni.streaming.bench.caller import SOUND, Caller, CallError, Order, Place, Refused, calling
from omni.streaming.bench.load import Answer, Listener
from omni.streaming.bench.recordings import PIECE_LEN, RATE, Conversation, is_steady, utterance_of, utterances_of
from omni.streaming.bench.run import Report, Task
from omni.streaming.bench.script import LONG, STEADY_SOUND, Made, Script, Scripted, Sent, Step, timed
from omni.streaming.bench.servers import Scripting, serving
from omni.streaming.bench.spread import Spread
from omni.streaming.server.hub import Hub
from tests.streaming.doubles import MEDIA, decoded
from tests.streaming.running import running

SHORT: Script = [Step(0.05, 0.0), Step(0.05, 0.5)]
NOWHERE = Place("ws://127.0.0.1:9")


@pytest.fixture(scope="module")
def voice() -> Samples:
    """A second of a spoken question."""
    found = utterance_of(np.concatenate([decoded((MEDIA / "where.ogg").read_bytes()), np.zeros(PIECE_LEN, np.float32)]))
    assert found is not None
    return found[: 50 * PIECE_LEN]


class Seeing(Scripted):
    """May be shown pictures."""

    budget = Budget()


@contextmanager
def served(script: Script) -> Iterator[Place]:
    """A server with the scripted model in this process."""
    with running(Hub(cast(Omni, Seeing(script)), "scripted")) as place:
        yield Place(place.ws)


# ---- times


def test_spread() -> None:
    spread = Spread.of(i / 1000 for i in reversed(range(200)))
    assert (spread.p50, spread.p99, spread.num) == (100.0, 198.0, 200)
    assert Spread.of([0.5]) == Spread(500.0, 500.0, 1)
    assert math.isnan(Spread.of([]).p99)


def test_a_listener_starves_when_sound_comes_after_what_was_there_was_played() -> None:
    answer = Answer(asked=10.0)
    for at, seconds in ((10.5, 0.4), (10.6, 0.2), (11.3, 0.2), (11.4, 1.0)):
        answer.hear(at, seconds)
    assert answer.ttfp == pytest.approx(0.5)
    assert answer.underrun == pytest.approx(0.2)
    assert answer.audio == pytest.approx(1.8)
    assert answer.total == pytest.approx(1.4)
    assert answer.played_out == pytest.approx(12.5)


def test_figures_of_load() -> None:
    quick = Answer(0.0, ttfp=0.4, audio=2.0, total=1.0)
    slow = Answer(0.0, ttfp=0.8, audio=1.0, total=2.0, underrun=0.25, breaks=1)
    whole, broken, idle = Listener([quick, quick, slow], late=[0.001]), Listener([quick], failed=["it broke"]), Listener()
    f = bench_load.figures([whole, broken, idle], 10.0)
    assert (f.sessions, f.served, f.requests, f.failed, f.refused, f.disordered, f.broken_questions) == (3, 1, 4, 1, 0, 0, 1)
    assert (f.mean_audio_ttfp_ms, f.median_audio_ttfp_ms, f.p99_audio_ttfp_ms) == pytest.approx((500.0, 400.0, 800.0))
    assert (f.mean_e2el_ms, f.mean_audio_rtf) == pytest.approx((1250.0, 0.875))
    assert (f.audio_underrun_s, f.continuity_ok) == pytest.approx((0.25, 0.75))
    assert (f.audio_duration_s, f.audio_throughput, f.request_throughput) == pytest.approx((7.0, 0.7, 0.4))
    assert f.microphone_late_ms.p99 == pytest.approx(1.0)
    assert f.faults == ("it broke",)
    assert math.isnan(bench_load.figures([idle], 1.0).mean_audio_rtf)


def test_figures_of_overhead() -> None:
    made = [
        Made(1, 0, 0.1, 1.000),
        Made(2, 1, 0.1, 1.001),  # of another answer, and never sent
        Made(3, 0, 3.0, 2.000),
        Made(4, 0, 0.0, 2.100),
        Made(5, 0, 0.0, 2.500),
        Made(6, 0, 0.0, 9.000),
    ]
    sent = [
        Sent(1, 0.1, 1.0004),
        *[Sent(3, 0.2, 2.001)] * 10,
        Sent(4, 0.0, 2.1003),
        *[Sent(3, 0.2, 2.6)] * 5,
        Sent(5, 0.0, 2.601),
        Sent(6, 0.0, 9.001),  # nothing waited any more
    ]
    f = bench_overhead.figures(1, made, sent, {1: 1.0009, 3: 2.1})
    assert (f.sound_ms.num, f.client_ms.num, f.words_ms.num) == (1, 1, 2)
    assert (f.sound_ms.p99, f.client_ms.p99, f.words_ms.p99) == pytest.approx((0.4, 0.9, 101.0))
    assert f.overtaken_s == pytest.approx((1.0 + 0.0) / 2)
    assert f.queued == 1


def test_the_timed_script_makes_words_while_sound_waits() -> None:
    script = timed()
    assert sum(0 < step.sound <= STEADY_SOUND for step in script) == 50
    ahead = max(i for i, step in enumerate(script) if step.sound > 1)
    waits = script[ahead].sound - 2.0 - sum(step.after for step in script[ahead + 1 :])
    assert all(not step.sound for step in script[ahead + 1 :]) and waits > 0.5


# ---- recordings


def test_a_voice_is_cut_where_it_begins_and_ends() -> None:
    silence = np.zeros(PIECE_LEN * 5 + 100, np.float32)
    tone = np.full(PIECE_LEN * 10, 0.5, np.float32)
    tail = np.full(PIECE_LEN, 0.01, np.float32)
    recording = np.concatenate([silence[:-100], tone, tail, silence])
    found = utterance_of(recording)
    assert found is not None
    np.testing.assert_array_equal(found, np.concatenate([tone, tail]))
    noise = np.random.default_rng(0).normal(0, 0.01, len(recording)).astype(np.float32)
    assert utterance_of(recording + noise) is None
    assert utterance_of(silence) is None and utterance_of(silence[:10]) is None
    asked = [Conversation(None, (recording, recording + noise)), Conversation(b"", (silence,))]
    (left,) = utterances_of(asked)
    assert len(left.questions) == 1


def test_a_voice_with_a_pause_at_its_beginning_is_not_steady(voice: Samples) -> None:
    paused = np.concatenate([voice[: 8 * PIECE_LEN], np.zeros(10 * PIECE_LEN, np.float32), voice[8 * PIECE_LEN :]])
    assert is_steady(voice)
    assert not is_steady(paused)


def test_no_recording_that_can_be_used() -> None:
    task = Task([Conversation(None, (np.zeros(RATE, np.float32),))], Request("Go on."))
    with pytest.raises(EvaluationError, match="no recording"):
        asyncio.run(bench.measure(task, NOWHERE))


# ---- order


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return event(f"response.{kind}", response_id="r", **fields)


ANSWER = [
    event("input_audio_buffer.speech_started", item_id="i"),
    event("input_audio_buffer.speech_stopped", item_id="i"),
    event("response.created", response={"id": "r"}),
    of("output_item.added"),
    of("content_part.added", part={"type": "audio"}),
    of("output_audio_transcript.delta", delta="Yes "),
    event(SOUND, response_id="r", delta="AAAA"),
    of("output_audio_transcript.delta", delta="sir."),
    of("output_audio.done"),
    of("output_audio_transcript.done", transcript="Yes sir."),
    of("content_part.done", part={"type": "audio"}),
    of("output_item.done"),
    event("response.done", response={"id": "r"}),
]


def faults(events: list[dict[str, Any]]) -> list[str]:
    order = Order()
    for i, each in enumerate(events):
        order.take({"event_id": str(i), **each})
    return order.faults


def swapped(i: int, k: int) -> list[dict[str, Any]]:
    events = [*ANSWER]
    events[i], events[k] = events[k], events[i]
    return events


def test_order_that_is_right() -> None:
    assert faults(ANSWER) == []
    text = [ANSWER[2], of("content_part.added", part={"type": "text"}), of("output_text.delta", delta="No.")]
    assert faults([*text, of("output_text.done", text="No."), ANSWER[-1]]) == []


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        (swapped(0, 1), "speech_stopped out of turn"),
        (swapped(2, 3), "output_item.added outside"),
        (swapped(4, 5), "before its content began"),
        (swapped(5, 7), "'Yes sir.', and its deltas said 'sir.Yes '"),
        (swapped(6, 8), "or after its end"),
        (swapped(6, 12), "output_audio.delta outside"),
        ([*ANSWER, ANSWER[6]], "output_audio.delta outside"),
        ([*ANSWER, ANSWER[12]], "ended that had not begun"),
        ([*ANSWER[:6], event("response.created", response={"id": "s"})], "began before the one before it"),
        ([{**ANSWER[0], "event_id": "1"}, ANSWER[1]], "no event_id of its own"),
    ],
)
def test_order_that_is_wrong(events: list[dict[str, Any]], fault: str) -> None:
    assert any(fault in each for each in faults(events)), faults(events)


# ---- the parts, with the scripted model


def test_load(voice: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_load, "PAUSE", 0.01)
    with served(SHORT) as place:
        f = asyncio.run(bench_load.load(place, [Conversation(None, (voice,))], 2, 1.5))
    assert (f.sessions, f.served, f.requests, f.failed, f.refused, f.disordered) == (2, 2, 2, 0, 0, 0), f.faults
    assert f.audio_duration_s == pytest.approx(1.0)
    assert f.median_audio_ttfp_ms > 200  # the turn ends after half a second of silence, some of which may sound like voice
    assert f.mean_e2el_ms >= f.mean_audio_ttfp_ms
    assert f.microphone_late_ms.num > 100


def test_turns_without_a_whole_answer_are_failures(voice: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_load, "PAUSE", 0.01)
    with served([Step(0.05, 0.0)]) as place:
        f = asyncio.run(bench_load.load(place, [Conversation(None, (voice,))], 1, 1.5))
    assert f.failed > 0 and (f.served, f.requests) == (0, 0)
    assert "no sound" in f.faults[0]


def test_who_is_not_let_in(voice: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_load, "PAUSE", 0.01)
    f = asyncio.run(bench_load.load(NOWHERE, [Conversation(None, (voice,))], 1, 0.1))
    assert f.refused > 0 and (f.served, f.failed) == (0, 0)
    with pytest.raises(Refused, match=NOWHERE.url):
        asyncio.run(bench_load.warm(NOWHERE, [Conversation(None, (voice,))], 1))


def test_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [*[Step(0.03, 0.1)] * 4, Step(0.03, 2.8), Step(0.05, 0.0), Step(0.05, 0.0)]
    monkeypatch.setattr(bench_overhead, "timed", lambda: short)
    f = asyncio.run(bench_overhead.overhead(2, answers=2))
    assert f.faults == ()
    assert (f.sound_ms.num, f.client_ms.num, f.words_ms.num) == (8, 8, 4)
    assert 0 < f.sound_ms.p50 < f.client_ms.p99
    assert f.queued == 0 and f.overtaken_s > 0.3


def test_barge_in(voice: Samples) -> None:
    with served(LONG) as place:
        f = asyncio.run(bench_barge_in.barge_in("long", place, Request("Go on."), [voice], 2))
    assert (f.told_ms.num, f.void, f.failed, f.model) == (2, 0, 0, "long"), f.faults
    assert 280 < f.told_ms.p50  # ten hops of voice
    assert f.last_sound_ms.p50 <= f.told_ms.p99


def test_an_answer_that_is_over_cannot_be_broken_off(voice: Samples) -> None:
    with served(SHORT) as place:
        f = asyncio.run(bench_barge_in.barge_in("short", place, Request("Go on."), [voice], 1))
    assert (f.told_ms.num, f.void, f.failed) == (0, 2, 0)


def test_a_caller_is_told_of_faults() -> None:
    async def main(place: Place) -> None:
        async with calling(place) as caller:
            await caller.send("nothing")
            with pytest.raises(CallError, match="known types"):
                await caller.until("nothing")
            with pytest.raises(CallError, match="nothing came"):
                await caller.next(0.01)
            await caller.show(None)
            await _lost(caller)

    with served(SHORT) as place:
        asyncio.run(main(place))


async def _lost(caller: Caller) -> None:
    await caller._socket.close()
    with pytest.raises(CallError, match="closed the connection"):
        await caller.until("nothing")
    with pytest.raises(CallError, match="closed the connection"):
        await caller.send("response.create")


# ---- the report


def good() -> Report:
    swift = Spread(0.4, 2.0, 100)
    over = bench_overhead.Figures(1, swift, swift, swift, 1.2, 0, ())
    listeners = [Listener([Answer(0.0, ttfp=0.4, audio=2.0, total=1.0)]) for _ in range(4)]
    cut = bench_barge_in.Figures(bench.SCRIPTED, Spread(200, 400, 30), Spread(300, 500, 30), 0, 0, ())
    nothing = replace(cut, model=bench.SERVED, last_sound_ms=Spread.of([]), told_ms=Spread.of([]), void=60)
    return Report((over, replace(over, sessions=4)), (bench_load.figures(listeners, 10.0),), (cut, nothing), 30)


def test_marks() -> None:
    report = good()
    (over, _), (load,), (cut, none) = report.overhead, report.load, report.barge_in
    assert report.missed == []
    late, words = Spread(1.0, 2.0, 100), Spread.of([])

    def missed(**changes: Any) -> str:
        (fault,) = replace(report, **changes).missed
        return fault

    assert "1.00 ms for a chunk" in missed(overhead=(replace(over, sound_ms=late),))
    assert "nan ms" in missed(overhead=(replace(over, sound_ms=Spread.of([])),))
    assert "1 of 100 words" in missed(overhead=(replace(over, queued=1),))
    assert "0 of 0 words" in missed(overhead=(replace(over, words_ms=words),))
    assert "it broke" in missed(overhead=(replace(over, faults=("it broke",)),))
    assert "3 sessions" in missed(load=(replace(load, served=3),))
    assert "2 turns failed" in missed(load=(replace(load, failed=2, faults=("it broke",)),))
    assert "29 answers were broken off" in missed(barge_in=(replace(cut, told_ms=Spread(300, 500, 29)),))
    assert "it is told 599 ms" in missed(barge_in=(replace(cut, told_ms=Spread(300, MOST_MS + 1, 30)),))
    assert "the last sound comes 599 ms" in missed(barge_in=(cut, replace(none, last_sound_ms=Spread(9, MOST_MS + 1, 9))))
    assert "1 answers failed" in missed(barge_in=(cut, replace(none, failed=1, faults=("it broke",))))


def test_the_table_fits_and_the_file_is_json(tmp_path: Path) -> None:
    report, text, path = good(), StringIO(), tmp_path / "server.json"
    bench.show(report, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in text.getvalue()
    assert "nan" not in text.getvalue()
    bench.write(report, Task([], Request("")), None, path)
    tree = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert tree["barge_in"][1]["told_ms"] == {"p50": None, "p99": None, "num": 0}
    assert tree["load"][0]["median_audio_ttfp_ms"] == 400.0
    assert tree["marks"]["barge_in_p99_ms"] == 598


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voice: Samples) -> None:
    async def overhead(sessions: int, **options: Any) -> bench_overhead.Figures:
        return replace(good().overhead[0], sessions=sessions)

    @asynccontextmanager
    async def scripted(script: Script) -> AsyncIterator[Scripting]:
        with served(script) as place:
            yield Scripting(place)

    picture = (MEDIA / "scene.png").read_bytes()
    task = Task([Conversation(picture, (np.pad(voice, PIECE_LEN),))], Request("Go on.", picture), [1], 3.0, 1)
    monkeypatch.setattr(bench_load, "PAUSE", 0.01)
    monkeypatch.setattr(bench_overhead, "overhead", overhead)
    monkeypatch.setattr(bench_barge_in, "HEARD_SECONDS", (0.0, 0.1))
    monkeypatch.setattr(bench, "scripted", scripted)
    monkeypatch.setattr(cli_bench, "_task", lambda *_: task)
    out = tmp_path / "server.json"
    with served(SHORT) as place:
        options = ["--url", place.url.replace("ws", "http"), "--json", str(out), "--check"]
        done = CliRunner().invoke(app, ["bench", "server", *options])
    assert done.exit_code == 1, done.output
    tree = json.loads(out.read_text())
    assert tree["server"] == place.url
    assert tree["load"][0]["served"] == 1, tree
    assert [figures["told_ms"]["num"] for figures in tree["barge_in"]] == [1, 0]
    assert tree["missed"] == ["1 sessions at once were answered without a fault; it should be 4"]
    assert "missed:" in done.output and "barge-in to being told" in done.output


def test_what_the_command_asks() -> None:
    task = cli_bench._task([1, 4], 60.0, 30, 7)
    assert (task.sessions, task.seconds, task.trials, task.seed) == ([1, 4], 60.0, 30, 7)
    assert task.request.text == "Describe the picture." and task.request.picture
    cut = utterances_of(task.conversations)
    assert sum(len(each.questions) for each in cut) >= 8
    assert all(each.picture and each.picture.startswith(b"\x89PNG") for each in cut)


def test_what_the_command_refuses() -> None:
    run = CliRunner().invoke
    assert run(app, ["bench", "server", "--sessions", "many"]).exit_code == 2
    assert run(app, ["bench", "server", "--json", "nowhere/server.json"]).exit_code == 2


def test_a_server_that_does_not_start(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(["--no-such-option"]):
            pass

    with pytest.raises(EngineError, match="did not start"):
        asyncio.run(main())
    assert "no-such-option" in capfd.readouterr().err


def test_silence_of_half_a_second_ends_what_load_says(voice: Samples) -> None:
    """Questions are said whole: no pause within this one is taken for its end."""
    detector = TurnDetector(ServerVad(), RATE)
    told = detector.push(np.concatenate([voice, np.zeros(RATE, np.float32)]), False)
    (stopped,) = [each for each in told if isinstance(each, SpeechStopped)]
    assert stopped.at_ms > len(voice) * 1000 / RATE
