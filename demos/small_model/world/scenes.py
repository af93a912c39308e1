"""The small world: what there is to see and hear.

Everything here is symbolic; `draw` and `sounds` make it visible and audible, `questions` has what one can ask about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring")
BACKGROUNDS = ("white", "black", "gray", "paper", "night", "mint")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
PHRASES = tuple(("in the " if p == "middle" else "on the " if p in ("left", "right") else "at the ") + p for p in PLACES)
DIRECTIONS = ("left", "right", "up", "down")
_READABLE = (
    "cat dog sun moon tree fish bird car bus hat cup box key map pen bed book door hand milk rain snow wind fire lamp "
    "ship road leaf nose king frog bear duck goat lion wolf ant bee pig cow yes no stop go hello red blue green one "
    "two love home water apple bread house mouse happy music night light"
)
READABLE = tuple(_READABLE.split())


@dataclass(frozen=True)
class Thing:
    """A shape; x, y its centre and size its diameter, in cells of the three by three grid (0 to 3)."""

    colour: str
    shape: str
    cell: int
    x: float
    y: float
    size: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A picture: shapes on a ground, or a number or word written on it (`text` in `ink`)."""

    width: int
    height: int
    ground: str
    things: tuple[Thing, ...] = ()
    text: str = ""
    ink: str = ""


@dataclass(frozen=True)
class Actor:
    """A thing that comes, goes or moves: visible in [shown, hidden), moving from `begin` on in `direction` to (x, y) + d."""

    thing: Thing
    shown: float = 0.0
    hidden: float = 99.0
    direction: str = ""
    begin: float = 0.0
    speed: float = 0.0
    """Cells a second."""


@dataclass(frozen=True)
class Clip:
    """A video of `seconds`; `beep` is the second at which its sound track beeps, -1 without sound."""

    width: int
    height: int
    ground: str
    seconds: int
    actors: tuple[Actor, ...]
    beep: int = -1


@dataclass(frozen=True)
class Sound:
    """Not speech: a "rise" or "fall" of pitch, or `count` "knock"s; "nothing"."""

    kind: str
    count: int = 0


def visible_colours(ground: str) -> list[str]:
    """Colours that can be told from a ground."""
    alike = {
        "white": ("white",),
        "paper": ("white", "yellow"),
        "black": ("black",),
        "gray": ("gray",),
        "night": ("black", "blue"),
    }
    return [c for c in COLOURS if c not in alike.get(ground, ())]


def canvas(rng: Random) -> tuple[int, int]:
    """Width and height, 64 to 1024 pixels, sides at most 1 to 3."""
    long = int(64 * 16 ** rng.random())
    short = max(64, int(long / rng.choice((1, 1, 1.33, 1.5, 1.78, 2, 2.5, 3))))
    return (long, short) if rng.random() < 0.6 else (short, long)


def _thing(rng: Random, colours: Sequence[str], cell: int, lively: float = 0.14) -> Thing:
    x, y = cell % 3 + 0.5 + rng.uniform(-lively, lively), cell // 3 + 0.5 + rng.uniform(-lively, lively)
    return Thing(rng.choice(colours), rng.choice(SHAPES), cell, x, y, rng.uniform(0.55, 0.9))


def scene(rng: Random) -> Scene:
    width, height = canvas(rng)
    ground = rng.choice(BACKGROUNDS)
    colours = visible_colours(ground)
    kind = rng.random()
    if kind < 0.12:
        return Scene(width, height, ground, text=str(rng.randrange(101)), ink=rng.choice(colours))
    if kind < 0.27:
        return Scene(width, height, ground, text=rng.choice(READABLE), ink=rng.choice(colours))
    # few names, so that counts above one and comparisons come up
    palette = rng.sample(colours, rng.choice((1, 2, 2, 3, 3, 4)))
    forms = rng.sample(SHAPES, rng.choice((1, 2, 2, 3, 3, 4)))
    cells = rng.sample(range(9), rng.choice((0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6)))
    things = []
    for cell in sorted(cells):
        t = _thing(rng, palette, cell)
        things.append(Thing(t.colour, rng.choice(forms), t.cell, t.x, t.y, t.size))
    return Scene(width, height, ground, tuple(things))


def clip(rng: Random) -> Clip:
    seconds = rng.randint(2, 6)
    ground = rng.choice(BACKGROUNDS)
    colours = visible_colours(ground)
    long = int(96 * 6 ** rng.random())
    width, height = rng.choice(((long, long), (long, int(long / 1.33)), (long, int(long / 1.78)), (int(long / 1.5), long)))
    beep = rng.randrange(seconds) if rng.random() < 0.4 else -1
    cells = rng.sample(range(9), 3)
    things = [_thing(rng, colours, cell, 0.1) for cell in cells]
    if len({t.name for t in things}) < 3 or len({t.shape for t in things}) < 2:
        return clip(rng)
    if rng.random() < 0.55:  # something moves
        begin = 0 if rng.random() < 0.5 or seconds < 3 else rng.randint(1, seconds - 2)
        direction = rng.choice(DIRECTIONS)
        far = 2.0 / max(seconds - begin, 1)
        t = things[0]
        start = {"left": 2.5, "right": 0.5, "up": 2.5, "down": 0.5}[direction] + rng.uniform(-0.1, 0.1)
        x, y = (start, t.y) if direction in ("left", "right") else (t.x, start)
        mover = Thing(t.colour, t.shape, int(y) * 3 + int(x), x, y, min(t.size, 0.8))
        across = direction in ("left", "right")

        def in_the_way(cell: int) -> bool:
            return cell // 3 == mover.cell // 3 if across else cell % 3 == mover.cell % 3

        others = [Actor(o) for o in things[1 : 1 + rng.randrange(3)] if not in_the_way(o.cell)]
        actors = (Actor(mover, direction=direction, begin=begin, speed=min(far, 1.5) * rng.uniform(0.8, 1)), *others)
        return Clip(width, height, ground, seconds, actors, beep)
    if seconds < 3:
        return clip(rng)
    one, two = sorted(rng.sample(range(1, seconds), 2))
    gone = rng.random() < 0.3
    first = Actor(things[0], hidden=one) if gone else Actor(things[0], shown=one)
    second = Actor(things[1], shown=two) if rng.random() < 0.75 else Actor(things[1], hidden=two)
    actors = (first, second) if rng.random() < 0.6 else (first, second, Actor(things[2]))
    return Clip(width, height, ground, seconds, actors, beep)


def sound(rng: Random) -> Sound:
    kind = rng.choice(("rise", "fall", "knock", "knock", "nothing"))
    return Sound(kind, rng.randint(1, 6) if kind == "knock" else 0)
