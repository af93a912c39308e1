"""Draws when a question was heard, when each word of the answer came, and when its sound did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import av
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Wave = NDArray[np.float32]

ASKED, WRITTEN, SPOKEN, QUIET = "#5f6f86", "#2a5db0", "#e07a1f", "#9aa3ad"
WIDTH, ROW, FOOT = 13.0, 1.75, 0.75
"""Inches."""
LETTER = 9.0
"""Points; a letter of the monospaced font is 0.602 as wide."""


@dataclass
class Exchange:
    """One question and its answer; times are seconds after the end of the question, when it was handed over whole.

    Attributes:
        medium: the picture or clip that was asked about.
        question: samples at `question_rate`.
        heard: the model's own transcript of it.
        words: (time, text) of each piece of the answer's text.
        chunks: (time, samples) of each piece of its sound.
    """

    medium: Path
    question: Wave
    question_rate: int
    heard: str
    sample_rate: int
    words: list[tuple[float, str]] = field(default_factory=list)
    chunks: list[tuple[float, Wave]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.words)

    def played(self) -> list[tuple[float, Wave]]:
        """The chunks at the times at which a loudspeaker plays them: when they come, or when the one before ends."""
        played, free = [], 0.0
        for came, samples in self.chunks:
            start = max(came, free)
            played.append((start, samples))
            free = start + len(samples) / self.sample_rate
        return played

    @property
    def end(self) -> float:
        """When the last word has come and the last sound was played."""
        ends = [start + len(samples) / self.sample_rate for start, samples in self.played()]
        return max([came for came, _ in self.words] + ends, default=0.0)


def draw(exchanges: Sequence[Exchange], path: Path) -> None:
    """One row for each exchange, all on one clock."""
    rows = len(exchanges)
    height = rows * ROW + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=110)
    margins = {"left": 0.01, "right": 0.985, "bottom": FOOT / height, "top": 1 - 0.1 / height}
    grid = figure.add_gridspec(rows, 2, width_ratios=(1, 6.4), wspace=0.04, hspace=0.1, **margins)
    first = -max(len(e.question) / e.question_rate for e in exchanges) - 0.15
    last = max(e.end for e in exchanges) + 0.15
    for row, exchange in enumerate(exchanges):
        if row == 0 or exchange.medium != exchanges[row - 1].medium:
            same = sum(e.medium == exchange.medium for e in exchanges[row:])
            _medium(figure.add_subplot(grid[row : row + same, 0]), exchange.medium)
        axes = figure.add_subplot(grid[row, 1])
        axes.set(xlim=(first, last), ylim=(-1.8, 2.9), yticks=[])
        _clock(axes, numbered=row == rows - 1)
        letter = 0.602 * LETTER / 72 * (last - first) / (axes.get_position().width * WIDTH)
        _question(axes, exchange, letter)
        _words(axes, exchange.words, letter)
        _sound(axes, exchange)
    figure.text(0.985, 0.16 / height, "▲ a piece of sound came", color=SPOKEN, fontsize=9, ha="right")
    figure.text(0.835, 0.16 / height, "| a word came", color=WRITTEN, fontsize=9, ha="right")
    figure.savefig(path)


def _medium(axes: Axes, path: Path) -> None:
    """The picture, or three frames of the clip one below the other."""
    with av.open(str(path)) as container:
        frames: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = frames if len(frames) == 1 else [frames[0], frames[len(frames) // 2], frames[-1]]
    gap = np.full((len(shown[0]) // 20, *shown[0].shape[1:]), 255, np.uint8)
    axes.imshow(np.concatenate([part for frame in shown for part in (frame, gap)][:-1]))
    axes.set_title(path.name, fontsize=9, color=ASKED)
    axes.axis("off")


def _clock(axes: Axes, *, numbered: bool) -> None:
    axes.axvline(0, color="#30363d", linewidth=0.9)
    axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelbottom=numbered, labelsize=8.5)
    if numbered:
        axes.set_xlabel("seconds after the end of the question", color=ASKED, fontsize=9)


def _question(axes: Axes, e: Exchange, letter: float) -> None:
    """What was asked, and above it what was heard."""
    _wave(axes, -len(e.question) / e.question_rate, e.question, e.question_rate, ASKED)
    lines = wrap(f"“{e.heard}”", max(8, int(-axes.get_xlim()[0] / letter)), max_lines=3, placeholder=" …")
    axes.text(-letter, 2.75, "\n".join(lines), color=ASKED, fontsize=LETTER, ha="right", va="top", parse_math=False)


def _words(axes: Axes, words: Sequence[tuple[float, str]], letter: float) -> None:
    """A tick where each word came, and the word above it, as near as the others let it be."""
    free, last = letter, axes.get_xlim()[1]
    for came, text in words:
        label = text.strip()
        left = max(came - letter * len(label) / 2, free)
        free = left + letter * (len(label) + 1.3)
        if free > last:
            axes.text(left, 2.35, "…", color=WRITTEN, fontsize=LETTER)
            break
        middle = left + letter * len(label) / 2
        axes.plot([came, came, middle, middle], [1.1, 1.4, 1.95, 2.1], color=WRITTEN, linewidth=0.8)
        axes.text(left, 2.35, label, color=WRITTEN, fontsize=LETTER, family="monospace", parse_math=False)


def _sound(axes: Axes, e: Exchange) -> None:
    """The chunks where they are heard, and marks where they came."""
    if not e.chunks:
        return
    loudest = max(float(np.abs(samples).max(initial=0)) for _, samples in e.chunks)
    for start, samples in e.played():
        _wave(axes, start, samples, e.sample_rate, SPOKEN, loudest)
    axes.plot([came for came, _ in e.chunks], [-1.1] * len(e.chunks), "^", color=SPOKEN, markersize=5)
    first = e.chunks[0][0]
    arrow = {"arrowstyle": "<->", "color": SPOKEN, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (first, -1.56), (0, -1.56), arrowprops=arrow)
    label = f" first sound after {1000 * first:.0f} ms"
    axes.text(first, -1.56, label, color=SPOKEN, fontsize=9, weight="bold", va="center")


def _wave(axes: Axes, start: float, samples: Wave, rate: int, colour: str, loudest: float | None = None) -> None:
    """The lowest and highest of every 5 ms, filled."""
    step = rate // 200
    cut = np.pad(samples, (0, -len(samples) % step)).reshape(-1, step)
    cut = cut / max(loudest or float(np.abs(samples).max(initial=0)), 1e-3)
    times = start + (np.arange(len(cut)) + 0.5) * step / rate
    axes.fill_between(times, cut.min(1), cut.max(1), color=colour, linewidth=0.4)
