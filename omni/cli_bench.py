"""The `omni bench` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from omni.cli_shared import Device, Dtype, Model, Threads, errors_told, loaded, notes

if TYPE_CHECKING:
    from omni.streaming.bench import Task

app = typer.Typer(no_args_is_help=True, help="Measure speed.")


@app.command("load")
def bench_load(
    model: Model = None,
    sessions: Annotated[str, typer.Option(help="How many conversations at once.")] = "1,2,4,8",
    questions: Annotated[int, typer.Option(min=1, help="That each of them asks.")] = 8,
    seed: Annotated[int, typer.Option(help="Of when they ask, and what.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Let listeners ask at random times, and tell how long they waited for sound and whether it ever stopped."""
    import torch

    from omni.load import measure, missed, show, write
    from omni.scores import check_place

    counts = _counts(sessions, "1,2,4,8")
    if threads:
        torch.set_num_threads(threads)
    with errors_told():
        if out:
            check_place(out)
        omni = loaded(model, device, dtype, speech=True)
        figures = measure(omni, counts, questions=questions, seed=seed, notes=notes)
        show(figures, Console(highlight=False))
        if out:
            write(figures, omni, out)
    _tell(missed(figures) if check else [])


@app.command("turns")
def bench_turns(
    model: Model = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median is told.")] = 9,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Tell how long the first sound takes after short and long turns, and after few and many."""
    import torch

    from omni.turns import measure, show

    if threads:
        torch.set_num_threads(threads)
    with errors_told():
        waits = measure(loaded(model, device, dtype, speech=True), repeats=repeats)
        show(waits, Console(highlight=False))
    _tell(waits.missed if check else [])


@app.command("door")
def bench_door(
    model: Model = None,
    url: Annotated[
        str | None, typer.Option(help="Of a server that runs, ws://host:port, instead of one with --model.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OMNI_API_KEY", help="Where that server wants one.")] = None,
    sessions: Annotated[str, typer.Option(help="How many listeners at once.")] = "1,4",
    seconds: Annotated[float, typer.Option(min=1, help="For which they ask.")] = 60.0,
    trials: Annotated[int, typer.Option(min=1, help="Answers that are broken off.")] = 30,
    seed: Annotated[int, typer.Option(help="Of when they ask, and what.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Talk with a server aloud: how soon it answers, whether it keeps up, and how soon it stops when it is interrupted."""
    import asyncio

    from omni.scores import check_place
    from omni.streaming.bench import measure, show, write
    from omni.streaming.bench_caller import Place

    options = ["--device", device, "--dtype", dtype]
    options += ["--model", model] if model else []
    options += ["--threads", str(threads)] if threads else []
    counts = _counts(sessions, "1,4")
    with errors_told():
        if out:
            check_place(out)
        task = _task(counts, seconds, trials, seed)
        place = Place(url.replace("http", "ws", 1) if url.startswith("http") else url, api_key) if url else None
        report = asyncio.run(measure(task, place, options, notes))
        show(report, Console(highlight=False))
        if out:
            write(report, task, place, out)
    _tell(report.missed if check else [])


def _task(sessions: list[int], seconds: float, trials: int, seed: int) -> Task:
    """What is asked aloud about pictures in the packaged set, and the picture that takes longest to describe."""
    from omni.encoders.media import read_audio
    from omni.evaluate import read_set
    from omni.streaming.bench import Task
    from omni.streaming.bench_barge_in import Request
    from omni.streaming.bench_speech import RATE, Conversation

    conversations, longest, request = [], 0, Request("")
    for case in read_set(None, ["converses"]).cases:
        parts = [part for turn in case.turns for part in turn.content]
        pictures = [Path(part["image"]).read_bytes() for part in parts if part["type"] == "image"]
        if len(pictures) != 1 or any(part["type"] == "video" for part in parts):
            continue
        questions = tuple(read_audio(part["audio"], rate=RATE) for part in parts if part["type"] == "audio")
        conversations.append(Conversation(pictures[0], questions))
        if len(case.turns[0].answer) > longest:
            longest, request = len(case.turns[0].answer), Request(case.turns[0].asked, pictures[0])
    return Task(conversations, request, sessions, seconds, trials, seed)


def _counts(text: str, example: str) -> list[int]:
    counts = [int(n) for n in text.split(",") if n.strip().isdecimal()]
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"give numbers such as {example}", param_hint="--sessions")
    return counts


def _tell(faults: list[str]) -> None:
    """Marks that were missed; fails where there are any."""
    for fault in faults:
        notes.print("[bold red]missed:[/]", escape(fault), soft_wrap=True)
    if faults:
        raise typer.Exit(1)
