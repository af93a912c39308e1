"""Whose voice a name stands for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

LOW = ("ash", "ballad", "cedar", "echo", "fable", "onyx", "verse", "aiden", "arthur", "dylan", "eric", "ethan", "ryan")
HIGH = ("coral", "marin", "nova", "sage", "shimmer", "chelsie", "cherry", "jada", "jennifer", "katerina", "serena", "sunny")
"""Names of men's and of women's voices, as those who offer them describe them: OpenAI's first, then Qwen's."""
KNOWN = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse", "marin", "cedar",
)  # fmt: skip
"""OpenAI's names, which clients send where nobody has chosen; new ones come last, so that each keeps its voice."""


def aliases(voices: Sequence[str], default: str) -> dict[str, str]:
    """Which voice of a model each of OpenAI's names stands for, but for those that it has itself.

    A man's voice stands for a man's and a woman's for a woman's where the model has such, by its names, in turn. The other
    names go through all voices in turn, the default first.
    """
    ordered = [default, *(voice for voice in voices if voice != default)]
    men, women = ([voice for voice in ordered if voice.casefold() in kind] for kind in (LOW, HIGH))
    each = cycle(ordered)
    low, high = (cycle(kind) if kind else each for kind in (men, women))
    found = {name: next(low if name in LOW else high if name in HIGH else each) for name in KNOWN}
    own = {voice.casefold() for voice in voices}
    return {name: voice for name, voice in found.items() if name not in own}


def voice_of(name: str, voices: Sequence[str], default: str) -> str | None:
    """The model's voice that a name stands for, in small letters or large; none, "" too, is the default. None for others."""
    if not name:
        return default
    if name in voices:
        return name
    same = [voice for voice in voices if voice.casefold() == name.casefold()]
    return same[0] if same else aliases(voices, default).get(name.casefold())
