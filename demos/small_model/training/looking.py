"""Where to look while answering: which rows of a picture, a clip or a sound hold what a word of an answer is about.

A row has a mark where it holds a thing's centre in some second, or a word of a sound; marks are numbers of a lesson.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from demos.small_model.nets import senses, words
from demos.small_model.speech.espeak import Unit
from demos.small_model.world import draw
from demos.small_model.world.questions import Turn, number
from demos.small_model.world.scenes import COLOURS, PHRASES, SHAPES, Clip, Scene, Thing

UNASKED = -100
"""A class that is not asked for."""
NO_MARK = -1
MOST_SECONDS, MOST_MARKS = 8, 32
FIRST_SOUND = 16
NOTHING = MOST_MARKS - 1
"""The mark, in second 0, of the row behind a picture: where to look for what is not in it."""
Looks = list[list[int]]
"""The marks to look for while each token of an answer is found; none where it does not matter."""


def mark(medium: int, second: int, which: int) -> int:
    return (medium * MOST_SECONDS + second) * MOST_MARKS + min(which, NOTHING)


def cell_of(thing: Thing, rows: int, columns: int) -> tuple[int, int]:
    """Row and column of a thing's centre."""
    return min(rows - 1, int(thing.y / 3 * rows)), min(columns - 1, int(thing.x / 3 * columns))


def marks_of(shown: Scene | Clip, size: tuple[int, int]) -> Tensor:
    """Int64 `[cells]` of a picture, or of a clip's seconds, whose frames are of (height, width).

    A thing that has gone has its mark once more, where it was.
    """
    rows, columns = size[0] // senses.CELL, size[1] // senses.CELL
    if isinstance(shown, Scene):
        at: list[list[Thing | None]] = [list(shown.things)]
    else:
        at = [draw.placed_at(shown, second + 0.5) for second in range(shown.seconds)]
    marks = torch.full((len(at), rows, columns), NO_MARK)
    for second, things in enumerate(at):
        for i, thing in enumerate(things):
            if thing is not None:
                marks[second][cell_of(thing, rows, columns)] = mark(0, second, i)
            elif second and (gone := at[second - 1][i]) and marks[second][cell_of(gone, rows, columns)] == NO_MARK:
                marks[second][cell_of(gone, rows, columns)] = mark(0, second, i)
    return marks.flatten()


def marks_of_sound(units: Sequence[Unit], rows: int, row_seconds: float, index: int) -> Tensor:
    """Int64 `[rows]` of a lesson's sound of that index."""
    marks = torch.full((rows,), NO_MARK)
    for i, (_, start, end) in enumerate(units):
        first = round(start / row_seconds)
        marks[first : max(first + 1, round(end / row_seconds))] = mark(FIRST_SOUND + index, 0, i)
    return marks


def _said(names: Sequence[str], text: str) -> set[str]:
    return {name for name in names if re.search(rf"\b{name}(e?s)?\b", text)}


def _named(things: Sequence[Thing], text: str) -> list[int]:
    """The things that a text names: by color and shape, or by one of them."""
    text = text.lower()
    if named := [i for i, t in enumerate(things) if t.name in text]:
        return named
    colours, shapes = _said(COLOURS, text), _said(SHAPES, text)
    if not colours and not shapes:
        return []
    return [i for i, t in enumerate(things) if (not colours or t.colour in colours) and (not shapes or t.shape in shapes)]


def asked(question: str) -> tuple[int, int, int]:
    """Color, shape and place that a question names, from 1 on; 0 for none, UNASKED for several."""
    text = question.lower()
    places = [phrase for phrase in PHRASES if text == f"what is {phrase}?"]
    named = ((COLOURS, _said(COLOURS, text)), (SHAPES, _said(SHAPES, text)), (PHRASES, set(places)))
    colour, shape, place = (
        UNASKED if len(said) > 1 else 1 + names.index(said.pop()) if said else 0 for names, said in named
    )
    return colour, shape, place


def at_scene(scene: Scene, turn: Turn) -> Looks:
    """Where the answer to a question about a scene comes from."""
    asked = turn.question.lower()
    places = [cell for cell, phrase in enumerate(PHRASES) if f"what is {phrase}?" == asked]
    if places:
        about = [i for i, t in enumerate(scene.things) if t.cell in places]
    elif "shapes" in asked and not _said(COLOURS, asked):
        about = list(range(len(scene.things)))
    else:
        about = _named(scene.things, asked)
    if not about and turn.answer.startswith(("There are no", "There is no", "No,", "Nothing")):
        about = [NOTHING]
    return [[mark(0, 0, i) for i in about]] * len(words.encode(turn.answer))


def at_clip(clip: Clip, turn: Turn) -> Looks:
    """Where the answer to a question about a clip comes from: the thing in question, at the second in question."""
    things = [actor.thing for actor in clip.actors]
    about = (
        _named(things, turn.question)
        or _named(things, turn.answer)
        or [i for i, actor in enumerate(clip.actors) if actor.direction]
    )
    if "beep" in turn.question or "How long" in turn.question:
        about = []
    seconds = list(range(clip.seconds))
    if turn.question.startswith("When"):
        seconds = [s for s in seconds if number(s) in turn.answer.rstrip(".").split()]
    elif turn.answer.endswith("appears.") and about:
        actor = clip.actors[about[0]]
        seconds = [int(actor.shown or actor.hidden)]
    return [[mark(0, s, i) for i in about for s in seconds]] * len(words.encode(turn.answer))


def at_list(answer: str, items: Sequence[Sequence[int]]) -> Looks:
    """For a list whose items are set apart by commas, full stops and colons, the marks of each item."""
    looks, item = Looks(), 0
    for token in words.encode(answer):
        looks.append(list(items[item]) if item < len(items) else [])
        item += words.tokenizer().decode([token]).strip() in {",", ".", ":"}
    return looks


def at_words(units: Sequence[Unit], text: str, index: int) -> Looks:
    """For a transcript of a lesson's sound of that index, the word that comes; nowhere if words and tokens differ."""
    said = [words.tokenizer().decode([token]).strip() for token in words.encode(text)]
    if sum(word.isalpha() for word in said) != len(units):
        return [[] for _ in said]
    looks, unit = Looks(), 0
    for word in said:
        looks.append([mark(FIRST_SOUND + index, 0, unit)] if word.isalpha() else [])
        unit += word.isalpha()
    return looks
