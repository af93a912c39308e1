"""What a bench found: rows with their marks, as a table and as JSON, with all that is needed to find it again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from omni.bench import baseline
from omni.bench.timing import Ceilings, Pairs
from omni.errors import OptionError
from omni.evaluation.evaluate import Mark
from omni.evaluation.scores import check_place

ROOT = Path(__file__).parents[2]
NOTHING = Mark()
MEANINGS = {
    "theirs": "theirs: transformers",
    "times": "times: median of theirs over ours, of rounds of ours, theirs, theirs, ours",
    "spread": "spread: of the rounds",
    "GB/s": "GB/s: that ours and theirs read",
    "/bound": "/bound: times what the ceilings would allow",
}


@dataclass(frozen=True)
class Row:
    """One figure of ours, and what it is held against.

    Attributes:
        name, setting: what was measured, and how; together they are its own in a report.
        ours, theirs: in `unit`, medians.
        ratio: of pairs measured by turns, theirs over ours (of a growth: the longer over the shorter).
        low, high: of the rounds.
        noise: by how much two readings of one program differ, as a part of them.
        bound: that `ours` cannot be better than, in `unit`.
        gb_per_s, tflop_per_s: that ours moved and did; their_gb_per_s: that theirs moved, where that is told.
        error: RMS of the difference between the outputs of both, over the RMS of theirs.
        allowed: the largest error.
        more_is_better: of `ours`.
        x: where on its curve it lies.
        mark: for `ratio`, on this hardware.
    """

    name: str
    setting: str
    ours: float
    unit: str = "ms"
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    bound: float | None = None
    gb_per_s: float | None = None
    their_gb_per_s: float | None = None
    tflop_per_s: float | None = None
    error: float | None = None
    allowed: float | None = None
    more_is_better: bool = False
    x: float | None = None
    mark: Mark = NOTHING

    @classmethod
    def of(
        cls,
        name: str,
        setting: str,
        pairs: Pairs,
        *,
        bound: float | None = None,
        moved: float = 0,
        their_moved: float = 0,
        operations: float = 0,
        error: float | None = None,
        allowed: float | None = None,
        mark: Mark = NOTHING,
    ) -> Row:
        """Of pairs, in ms; bound in seconds, moved in bytes."""
        both = bool(pairs.b)
        return cls(
            name,
            setting,
            1000 * pairs.a_median,
            theirs=1000 * pairs.b_median if both else None,
            ratio=pairs.ratio if both else None,
            low=min(pairs.ratios) if both else None,
            high=max(pairs.ratios) if both else None,
            noise=pairs.noise,
            bound=None if bound is None else 1000 * bound,
            gb_per_s=moved / pairs.a_median / 1e9 if moved else None,
            their_gb_per_s=their_moved / pairs.b_median / 1e9 if their_moved and both else None,
            tflop_per_s=operations / pairs.a_median / 1e12 if operations else None,
            error=error,
            allowed=allowed,
            mark=mark,
        )

    @property
    def missed(self) -> str | None:
        """What is wrong with it, if anything is; a mark that could not be judged is missed."""
        if self.error is not None and self.allowed is not None and not self.error <= self.allowed:
            return f"{self.name}: its output differs by {self.error:.1g} of its RMS; allowed is {self.allowed:g}"
        if self.mark == NOTHING:
            return None
        if self.ratio is None:
            return f"{self.name}: nothing to compare with; install transformers"
        if not self.mark.met(self.ratio):
            reach = f"; at its bound it would be {self.theirs / self.bound:.1f}" if self.theirs and self.bound else ""
            return f"{self.name}: {self.ratio:.2f} times, and it should be {told(self.mark)}{reach}"
        return None


@dataclass(frozen=True)
class Report:
    """Attributes:
    bench: the command's name.
    settings: its options.
    meanings: of columns, where they are not the usual ones.
    """

    bench: str
    device: torch.device
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    ceilings: Ceilings | None = None
    notes: Sequence[str] = field(default=())
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        return [fault for row in self.rows if (fault := row.missed)]


def told(mark: Mark) -> str:
    at_least = f">= {mark.at_least:g}" if mark.at_least is not None else ""
    return at_least or (f"<= {mark.at_most:g}" if mark.at_most is not None else "")


def show(report: Report, console: Console) -> None:
    """The rows as a table, without the columns that no row has anything for."""
    if report.ceilings:
        c = report.ceilings
        products = ", ".join(f"{str(dtype).removeprefix('torch.')} {1e-12 * x:.3g}" for dtype, x in c.products.items())
        speeds = f"copy {1e-9 * c.copy:.1f} GB/s, read {1e-9 * c.read:.1f} GB/s"
        console.print(f"ceilings: {speeds}, product {products} TFLOP/s", soft_wrap=True)
    columns = {
        "ms unless told": [_title(row) for row in report.rows],
        "ours": [number(row.ours) for row in report.rows],
        "theirs": [number(row.theirs) for row in report.rows],
        "times": [number(row.ratio) for row in report.rows],
        "spread": [f"{number(row.low)}-{number(row.high)}" if row.low and row.high else "" for row in report.rows],
        "GB/s": [_speeds(row) for row in report.rows],
        "/bound": [number(row.ours / row.bound) if row.bound else "" for row in report.rows],
        "mark": [told(row.mark) for row in report.rows],
        "": [_verdict(row) for row in report.rows],
    }
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    used = {name: cells for name, cells in columns.items() if any(cells)}
    for i, name in enumerate(used):
        table.add_column(name, justify="right" if i else "left", no_wrap=i > 0)
    for cells in zip(*used.values(), strict=True):
        table.add_row(*cells)
    console.print(table)
    meant = [report.meanings.get(name, meaning) for name, meaning in MEANINGS.items() if name in used]
    console.print("; ".join(meant), style="dim", markup=False, soft_wrap=True)
    for setting, some in groupby(report.rows, key=lambda row: row.setting):
        names = list(dict.fromkeys(_title(row) for row in some))
        console.print(f"{', '.join(names)}: {setting}", style="dim", markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)


def _title(row: Row) -> str:
    unit = "" if row.unit == "ms" else f", {row.unit}"
    return f"{row.name}{unit}" if row.x is None else f"{row.name} {row.x:g}"


def _speeds(row: Row) -> str:
    """What ours and theirs read, where both are told."""
    return f"{number(row.gb_per_s)}, {number(row.their_gb_per_s)}" if row.their_gb_per_s else ""


def number(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _verdict(row: Row) -> str:
    if row.missed:
        return "[bold red]missed[/]"
    return "" if row.mark == NOTHING else "[green]met[/]"


def tree(report: Report) -> dict[str, Any]:
    """The report as it is written."""
    c = report.ceilings
    return {
        "bench": report.bench,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": describe(report.device),
        "versions": {
            "omni": version("omni-runtime"),
            "torch": torch.__version__,
            "transformers": baseline.version(),
            "python": platform.python_version(),
        },
        "settings": dict(report.settings),
        "ceilings": c
        and {"copy": c.copy, "read": c.read, **{str(dtype).removeprefix("torch."): x for dtype, x in c.products.items()}},
        "rows": [{**asdict(row), "missed": row.missed} for row in report.rows],
        "notes": list(report.notes),
    }


def write(report: Report, path: Path) -> None:
    """OptionError where the file cannot be written."""
    check_place(path)
    path.write_text(json.dumps(tree(report), indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A report that `write` wrote; OptionError where it is none."""
    try:
        found = json.loads(path.read_text())
        rows(found)
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise OptionError(f"{path} is no report of `omni bench` ({type(e).__name__}: {e})") from e
    return dict(found)


def rows(found: Mapping[str, Any]) -> list[Row]:
    """The rows of a report's tree."""
    kept = ({k: v for k, v in row.items() if k != "missed"} for row in found["rows"])
    return [Row(**{**row, "mark": Mark(**row["mark"])}) for row in kept]


def hardware(device: torch.device) -> str:
    """What marks are kept for: "cpu", or the last word of a GPU's name that holds a digit, such as "H200"."""
    if device.type == "cpu":
        return "cpu"
    words = [word for word in torch.cuda.get_device_name(device).split() if any(c.isdigit() for c in word)]
    return words[0] if words else device.type


def describe(device: torch.device) -> dict[str, Any]:
    """The machine: whoever reads a figure must know whose it is."""
    return {
        "name": _cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "type": str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capabilities": sorted(_true(torch.cpu.get_capabilities().items())),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def _true(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [name for name, value in items if value is True]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str | None:
    """The commit that this code was checked out at, with a "+" where files were changed since; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout.strip()
