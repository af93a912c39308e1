"""The table and the JSON that `omni eval` makes of scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from omni.api import Omni
from omni.errors import OptionError
from omni.evaluation.evaluate import EvalSet, Mark, Score, evaluate

TOLD = 5
"""Wrong answers of each row that are listed."""


def score(omni: Omni, given: EvalSet, notes: Console) -> list[Score]:
    """All rows, with a bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("", total=len(given.cases))
        return list(evaluate(omni, given, lambda case: bar.update(task, advance=1, description=case.row)))


def show(scores: Sequence[Score], console: Console, *, verbose: bool) -> None:
    table = Table("row", "test", box=box.SIMPLE_HEAD)
    for name in ("figure", "mark", "", "cases", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in scores:
        table.add_row(each.row.name, escape(each.row.title), "", "", "", str(len(each.outcomes)), f"{each.seconds:.1f}")
        for name, value in each.figures.items():
            told = _told(each.row.metric, value), _bound(each.row.metric, each.row.marks[name])
            table.add_row("", f"[dim]·[/] {escape(name)}", *told, _verdict(each.row.marks[name], value))
        table.add_section()
    console.print(table)
    for each in scores if verbose else ():
        wrong = [outcome for outcome in each.outcomes if not outcome.right]
        for outcome in wrong[:TOLD]:
            line = f"{each.row.name}: {outcome.asked} | expected: {outcome.expected} | got: {outcome.answered}"
            console.print(line, markup=False, soft_wrap=True)
        if len(wrong) > TOLD:
            console.print(f"{each.row.name}: and {len(wrong) - TOLD} more", style="dim")


def check_place(path: Path) -> None:
    """Raises OptionError where `write` could not, which is better known before the work."""
    if path.is_dir() or not path.parent.is_dir():
        raise OptionError(f"{path} cannot be written; name a file in a folder that is there")


def write(scores: Sequence[Score], given: EvalSet, path: Path) -> None:
    """All figures, and every wrong answer.

    Raises:
        OptionError: the file cannot be written.
    """
    tree = {
        "set": str(given.folder),
        "passed": all(s.passed for s in scores),
        "rows": {s.row.name: _tree(s) for s in scores},
    }
    try:
        path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as e:
        raise OptionError(f"{path} cannot be written ({e.strerror}); name another file") from e


def _tree(each: Score) -> dict[str, Any]:
    return {
        "title": each.row.title,
        "passed": each.passed,
        "figures": each.figures,
        "told": {
            name: {"figure": _told(each.row.metric, value), "mark": _bound(each.row.metric, mark), "met": mark.met(value)}
            for name, value in each.figures.items()
            for mark in [each.row.marks[name]]
        },
        "cases": len(each.outcomes),
        "seconds": round(each.seconds, 2),
        "wrong": [{"asked": o.asked, "expected": o.expected, "got": o.answered} for o in each.outcomes if not o.right],
    }


def _told(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "speed" else f"{100 * value:.3g} %"


def _bound(metric: str, mark: Mark) -> str:
    if mark.at_least is not None:
        return f">= {_told(metric, mark.at_least)}"
    return "" if mark.at_most is None else f"<= {_told(metric, mark.at_most)}"


def _verdict(mark: Mark, value: float) -> str:
    if mark == Mark():
        return ""
    return "[green]pass[/]" if mark.met(value) else "[bold red]miss[/]"
