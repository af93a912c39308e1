"""The `omni bench` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from omni.cli_shared import Device, Dtype, Model, Threads, errors_told, loaded, notes

app = typer.Typer(no_args_is_help=True, help="Measure speed.")


@app.command("load")
def benchloaded(
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

    counts = [int(n) for n in sessions.split(",") if n.strip().isdecimal()]
    if not counts or min(counts) < 1:
        raise typer.BadParameter("give numbers such as 1,2,4,8", param_hint="--sessions")
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
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median is told.")] = 5,
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


def _tell(faults: list[str]) -> None:
    """Marks that were missed; fails where there are any."""
    for fault in faults:
        notes.print("[bold red]missed:[/]", escape(fault), soft_wrap=True)
    if faults:
        raise typer.Exit(1)
