"""Curves as a picture, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from omni.bench.report import number
from omni.errors import OptionError

OURS, THEIRS, QUIET, INK = "#2a5db0", "#e07a1f", "#9aa3ad", "#30363d"
WIDTH, HEIGHT, COLUMNS = 460, 330, 2
"""Of a panel, in points of which a pixel holds two; panels side by side."""
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 44, 46
SCALE = 2


@dataclass(frozen=True)
class Panel:
    """One curve, on logarithmic axes.

    Attributes:
        x: of each point, ascending.
        ours, theirs: y of each; None where it was not measured.
    """

    title: str
    x_unit: str
    y_unit: str
    x: Sequence[float]
    ours: Sequence[float]
    theirs: Sequence[float | None]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """All panels into one PNG; OptionError where it cannot be written."""
    columns = min(COLUMNS, len(panels))
    size = columns * WIDTH, -(-len(panels) // columns) * HEIGHT
    image = Image.new("RGB", (SCALE * size[0], SCALE * size[1]), "white")
    pen = ImageDraw.Draw(image)
    for i, panel in enumerate(panels):
        _panel(pen, panel, i % columns * WIDTH, i // columns * HEIGHT)
    try:
        image.save(path)
    except (OSError, ValueError) as e:
        raise OptionError(f"{path} cannot be written ({e}); name a PNG in a folder that is there") from e


def ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis, within low..high and few enough to be read."""
    steps = (1, 2, 5) if high / low < 200 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [n * 10.0**p for p in powers for n in steps]
    return [t for t in found if low * 0.999 <= t <= high * 1.001]


def _panel(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    ys = [y for y in (*panel.ours, *panel.theirs) if y]
    low, high = min(ys) / 1.25, max(ys) * 1.25
    first, last = min(panel.x), max(panel.x)
    right, bottom = left + WIDTH - RIGHT, top + HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / first) / math.log(last / first) if last > first else 0.5
        up = math.log(y / low) / math.log(high / low)
        return left + LEFT + across * (right - left - LEFT), bottom - up * (bottom - top - TOP)

    for y in ticks(low, high):
        at = place(first, y)[1]
        _line(pen, [(left + LEFT, at), (right, at)], "#e6e9ed", 1)
        _text(pen, (left + LEFT - 6, at), number(y), QUIET, 9, "rm")
    _line(pen, [(left + LEFT, bottom), (right, bottom)], QUIET, 1)
    for x in panel.x:
        _text(pen, (place(x, low)[0], bottom + 6), f"{x:g}", QUIET, 9, "mt")
    _text(pen, ((left + LEFT + right) / 2, bottom + 22), panel.x_unit, INK, 10, "mt")
    _text(pen, (left + LEFT - 40, top + 10), panel.title, INK, 12, "lt")
    _text(pen, (left + LEFT - 40, top + 27), panel.y_unit, QUIET, 9, "lt")
    end = right
    curves = (("transformers", THEIRS, panel.theirs), ("omni", OURS, panel.ours))
    for name, colour, values in curves:
        points = [place(x, y) for x, y in zip(panel.x, values, strict=True) if y]
        if not points:
            continue
        _line(pen, points, colour, 2)
        for x, y in points:
            pen.ellipse([SCALE * (x - 3), SCALE * (y - 3), SCALE * (x + 3), SCALE * (y + 3)], fill=colour)
        _text(pen, (end, top + 27), name, colour, 9, "rt")
        end -= 76


def _line(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    pen.line([(SCALE * x, SCALE * y) for x, y in points], fill=colour, width=SCALE * width, joint="curve")


def _text(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str, points: int, anchor: str) -> None:
    font = ImageFont.load_default(SCALE * points)
    pen.text((SCALE * at[0], SCALE * at[1]), text, fill=colour, font=font, anchor=anchor)
