"""Two reports side by side: what became faster, and what slower by more than the noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from omni.bench.report import Row, number, rows

LEAST = 0.05
"""A change below this part is never told as one."""
SETTINGS = (("device", "name"), ("device", "threads"), ("settings", "dtype"), ("settings", "weights"))
"""What should be alike for a comparison to mean something."""


@dataclass(frozen=True)
class Change:
    """A row of both reports."""

    before: Row
    after: Row

    @property
    def speedup(self) -> float:
        """How many times as good the second is as the first."""
        a, b = self.before.ours, self.after.ours
        if not a or not b:
            return 1.0
        return b / a if self.before.more_is_better else a / b

    @property
    def noise(self) -> float:
        """The change that either report's own readings differ by."""
        return max(LEAST, self.before.noise or 0.0, self.after.noise or 0.0)

    @property
    def verdict(self) -> str:
        if self.speedup > 1 + self.noise:
            return "faster"
        return "slower" if self.speedup < 1 / (1 + self.noise) else ""


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    changes: of rows that both have; only_before, only_after: names of the others.
    different: what was not alike.
    """

    changes: list[Change]
    only_before: list[str]
    only_after: list[str]
    different: list[str]

    @property
    def slower(self) -> list[str]:
        return [
            f"{c.before.name} ({c.before.setting}) is {1 / c.speedup:.2f} times as slow"
            for c in self.changes
            if c.verdict == "slower"
        ]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Rows match by name and setting."""
    a, b = ({(row.name, row.setting): row for row in rows(tree)} for tree in (before, after))
    different = []
    for part, key in (*SETTINGS, ("bench", "")):
        values = [tree[part].get(key) if key else tree[part] for tree in (before, after)]
        if values[0] != values[1]:
            different.append(f"{key or part}: {values[0]} and {values[1]}")
    return Comparison(
        [Change(a[key], b[key]) for key in a if key in b],
        [" ".join(key) for key in a if key not in b],
        [" ".join(key) for key in b if key not in a],
        different,
    )


def show(found: Comparison, console: Console) -> None:
    for text in found.different:
        console.print("not alike:", text, style="yellow", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("ms unless told")
    for name in ("before", "after", "times as good", "noise", "against transformers", ""):
        table.add_column(name, justify="right")
    for change in found.changes:
        a, b = change.before, change.after
        style = {"faster": "green", "slower": "bold red"}.get(change.verdict, "")
        table.add_row(
            escape(f"{a.name}{'' if a.unit == 'ms' else f', {a.unit}'}\n  {a.setting}"),
            number(a.ours),
            number(b.ours),
            f"{change.speedup:.2f}",
            f"{100 * change.noise:.0f}%",
            f"{a.ratio:.2f}, {b.ratio:.2f}" if a.ratio and b.ratio else "",
            f"[{style}]{change.verdict}[/]" if style else "",
        )
    console.print(table)
    for title, names in (("only in the first", found.only_before), ("only in the second", found.only_after)):
        for name in names:
            console.print(f"{title}: {name}", style="dim", markup=False, soft_wrap=True)
