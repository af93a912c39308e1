"""A bench of the server, measured at its clients: load, the server's own time, and barge-in, against their marks."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from omni.errors import EvaluationError
from omni.streaming.audio.turn_detection import ServerVad
from omni.streaming.bench import barge_in as bench_barge_in
from omni.streaming.bench import load as bench_load
from omni.streaming.bench import overhead as bench_overhead
from omni.streaming.bench.caller import Place
from omni.streaming.bench.recordings import BARGE_IN_MS, DETECTOR_LAG_MS, Conversation, is_steady, utterances_of
from omni.streaming.bench.script import LONG
from omni.streaming.bench.servers import scripted, serving
from omni.streaming.bench.spread import Spread

LISTENERS = 4
"""The mark: how many at once must be answered without a fault."""
SCRIPTED, SERVED = "scripted", "served"
"""The models that are interrupted."""

MEANINGS = {
    "load": "at the client; a question ends with its last voiced sample, so audio_ttfp holds the silence that ends a turn",
    "rtf": "seconds from the end of the question until the last sound was there, over seconds of sound; sound that is not "
    "due yet is held back",
    "overhead": "a scripted model in a server of its own, ms; sound: from a chunk's making until its frame is handed to "
    "the socket; client: until the client has it; words: the same for words made while earlier sound waits until it is due",
    "barge_in": "ms from the first voiced sample sent until the last sound, and until speech_started, was received; the "
    "scripted model is always far ahead of its playing, the served one may not be",
}


@dataclass(frozen=True)
class Task:
    """What is to be measured.

    Attributes:
        conversations: what listeners show and ask; request: what has a long answer, which is broken off.
        sessions: how many listeners at once, in turn; seconds: for which each number of them asks.
        trials: of barge-in.
    """

    conversations: Sequence[Conversation]
    request: bench_barge_in.Request
    sessions: Sequence[int] = (1, 4)
    seconds: float = 60.0
    trials: int = 30
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What was found. trials: of barge-in that were asked for."""

    overhead: tuple[bench_overhead.Figures, ...]
    load: tuple[bench_load.Figures, ...]
    barge_in: tuple[bench_barge_in.Figures, ...]
    trials: int

    @property
    def missed(self) -> list[str]:
        """Marks that were missed."""
        return [
            *(fault for each in self.overhead for fault in _overhead_missed(each)),
            *_load_missed(self.load),
            *(fault for each in self.barge_in for fault in _barge_in_missed(each, self.trials)),
        ]


async def measure(task: Task, place: Place | None, options: Sequence[str] = (), notes: Console | None = None) -> Report:
    """Everything, one after the other.

    Args:
        place: a server that runs; None starts `omni serve` with these options.

    Raises:
        EvaluationError: none of the recordings can be used.
        EngineError: there is no server, or it cannot be started.
    """

    def note(text: str) -> None:
        if notes:
            notes.print(text, style="dim", highlight=False)

    conversations = utterances_of(task.conversations)
    steady = [utterance for each in conversations for utterance in each.questions if is_steady(utterance)]
    if not steady:
        raise EvaluationError("no recording has a voice without pauses and with silence around it; give others")
    overheads = []
    for count in task.sessions:
        overheads.append(await bench_overhead.overhead(count, seed=task.seed))
        note(f"scripted model, {count} sessions: {overheads[-1].sound_ms.num} chunks")
    cuts = []
    async with scripted(LONG) as server:
        request = bench_barge_in.Request("Go on.")
        cuts.append(await bench_barge_in.barge_in(SCRIPTED, server.place, request, steady, task.trials, seed=task.seed))
        note(f"scripted model, barge-in: {cuts[-1].told_ms.num} trials")
    async with nullcontext(place) if place else serving(options) as there:
        await bench_load.warm(there, conversations, max(task.sessions))
        loads = []
        for count in task.sessions:
            loads.append(await bench_load.load(there, conversations, count, task.seconds, seed=task.seed))
            found, late = loads[-1].requests, loads[-1].microphone_late_ms.p99
            note(f"{count} sessions: {found} answers in {task.seconds:g} s; microphones late by {late:.1f} ms (p99)")
        cuts.append(await bench_barge_in.barge_in(SERVED, there, task.request, steady, task.trials, seed=task.seed))
        note(f"barge-in: {cuts[-1].told_ms.num} trials, and {cuts[-1].void} answers that were not being heard by then")
    return Report(tuple(overheads), tuple(loads), tuple(cuts), task.trials)


def _overhead_missed(figures: bench_overhead.Figures) -> list[str]:
    name, out = f"scripted model, {figures.sessions} sessions", list[str]()
    if not figures.sound_ms.p50 < bench_overhead.MOST_MS:
        out.append(
            f"{name}: the server takes {figures.sound_ms.p50:.2f} ms for a chunk; it should be {bench_overhead.MOST_MS:g}"
        )
    if figures.queued or not figures.words_ms.num:
        out.append(f"{name}: {figures.queued} of {figures.words_ms.num} words waited behind sound; none should")
    if figures.faults:
        out.append(f"{name}: {len(figures.faults)} faults; the first: {figures.faults[0]}")
    return out


def _load_missed(runs: Sequence[bench_load.Figures]) -> list[str]:
    out = []
    for each in runs:
        if each.failed or each.refused or each.disordered:
            out.append(
                f"{each.sessions} sessions: {each.failed} turns failed, {each.refused} were refused, {each.disordered} "
                f"events were out of order; the first: {each.faults[0]}"
            )
    if (served := max((each.served for each in runs), default=0)) < LISTENERS:
        out.append(f"{served} sessions at once were answered without a fault; it should be {LISTENERS}")
    return out


def _barge_in_missed(figures: bench_barge_in.Figures, trials: int) -> list[str]:
    """How many answers of a served model can be broken off depends on its speed, and is no mark."""
    name, out, most = f"barge-in, {figures.model} model", list[str](), bench_barge_in.MOST_MS
    if figures.model == SCRIPTED and figures.told_ms.num < trials:
        out.append(f"{name}: {figures.told_ms.num} answers were broken off; it should be {trials}")
    if figures.failed:
        out.append(f"{name}: {figures.failed} answers failed; the first: {figures.faults[0]}")
    for what, spread in (("the last sound comes", figures.last_sound_ms), ("it is told", figures.told_ms)):
        if spread.p99 > most:
            out.append(f"{name}: {what} {spread.p99:.0f} ms after the voice begins (p99); it should be {most:g}")
    return out


def show(report: Report, console: Console) -> None:
    table = Table(title="seconds to the first sound (p50, p99), of silence, of sound a second", title_justify="left")
    for name in ("n", "turns", "failed", "p50", "p99", "factor", "silent", "smooth", "sound"):
        table.add_column(name, justify="right", no_wrap=True)
    for f in report.load:
        table.add_row(
            str(f.sessions),
            str(f.requests),
            str(f.failed + f.refused + f.disordered),
            _number(f.median_audio_ttfp_ms / 1000, 2),
            _number(f.p99_audio_ttfp_ms / 1000, 2),
            _number(f.mean_audio_rtf, 2),
            f"{f.audio_underrun_s:.1f}",
            f"{_number(100 * f.continuity_ok, 0)} %",
            f"{f.audio_throughput:.2f}",
        )
    console.print(table)
    table = Table(title="milliseconds", title_justify="left")
    for name in ("what", "n", "p50", "p99", "mark"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=True)
    for o in report.overhead:
        _row(table, f"chunk to socket, {o.sessions} at once", o.sound_ms, f"p50 < {bench_overhead.MOST_MS:g}", 2)
        _row(table, f"chunk to client, {o.sessions} at once", o.client_ms, "", 2)
        _row(table, f"words to socket, past {o.overtaken_s:.1f} s of sound", o.words_ms, f"{o.queued} queue", 2)
    for b in report.barge_in:
        mark = f"p99 <= {bench_barge_in.MOST_MS:g}"
        _row(table, f"barge-in to the last sound, {b.model} model", b.last_sound_ms, mark, 0)
        _row(table, f"barge-in to being told, {b.model} model", b.told_ms, mark, 0)
    console.print(table)


def _row(table: Table, what: str, spread: Spread, mark: str, digits: int) -> None:
    table.add_row(what, str(spread.num), _number(spread.p50, digits), _number(spread.p99, digits), mark)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def write(report: Report, task: Task, place: Place | None, path: Path) -> None:
    """All figures as JSON; null where nothing was measured."""
    tree = {
        "versions": {"omni": version("omni-runtime"), "python": platform.python_version()},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "server": place.url if place else "the bench's own",
        "seconds": task.seconds,
        "seed": task.seed,
        "meanings": MEANINGS,
        "marks": {
            "overhead_p50_ms": bench_overhead.MOST_MS,
            "served": LISTENERS,
            "barge_in_p99_ms": bench_barge_in.MOST_MS,
            "of_which_detector_ms": BARGE_IN_MS,
            "of_which_lag_ms": DETECTOR_LAG_MS,
        },
        "silence_that_ends_a_turn_ms": ServerVad().silence_duration_ms,
        "overhead": [asdict(each) for each in report.overhead],
        "load": [asdict(each) for each in report.load],
        "barge_in": [asdict(each) for each in report.barge_in],
        "missed": report.missed,
    }
    path.write_text(json.dumps(_told(tree), indent=1) + "\n")


def _told(tree: Any) -> Any:
    """Without NaN, which JSON does not know."""
    match tree:
        case dict():
            return {key: _told(value) for key, value in tree.items()}
        case list() | tuple():
            return [_told(value) for value in tree]
        case float() if math.isnan(tree):
            return None
    return tree
