"""Text that remembers which of its characters may be special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Self, SupportsIndex

TEXT, SPECIAL = ".", "!"


class Marked(str):
    """A string like any other, with a mark for each character: SPECIAL where it may be of a special token, else TEXT.

    What cuts, strips, joins and replaces keeps the marks; what any other operation makes is all TEXT, as a string without
    marks is. So a mark can be lost but never come from nowhere.
    """

    __slots__ = ("_marks",)  # underscored: no attribute for a template

    _marks: str

    def __new__(cls, text: str, marks: str | None = None) -> Self:
        self = super().__new__(cls, text)
        self._marks = _marks_of(text) if marks is None else marks
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented  # jinja's Markup escapes what it is added to
        return concat((self, other))

    def __radd__(self, other: str) -> str:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, at: SupportsIndex | slice) -> str:
        return Marked(super().__getitem__(at), self._marks[at])

    def lstrip(self, chars: str | None = None) -> str:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> str:
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> str:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> str:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._pieces(super().splitlines(keepends), None)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._around(*map(len, super().partition(sep)[:2]))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._around(*map(len, super().rpartition(sep)[:2]))

    def replace(self, old: str, new: str, /, count: SupportsIndex = -1) -> str:
        return Marked(new).join(self.split(old, count)) if old else Marked(super().replace(old, new, count))

    def join(self, parts: Iterable[str], /) -> str:
        joined: list[str] = []
        for part in parts:
            joined += (self, part)
        return concat(joined[1:])

    def _pieces(self, pieces: list[str], sep: str | None) -> list[str]:
        """`pieces` of this string with their marks, parted by `sep`, or by white space that none of them begins with."""
        found, at = list[str](), 0
        for piece in pieces:
            at = self.index(piece, at) if sep is None else at
            found.append(self[at : at + len(piece)])
            at += len(piece) + len(sep or "")
        return found

    def _around(self, before: int, inside: int) -> tuple[str, str, str]:
        return self[:before], self[before : before + inside], self[before + inside :]


def mark(text: str, pattern: re.Pattern[str]) -> Marked:
    """A text whose matches of `pattern` may be special tokens."""
    marks, at = list[str](), 0
    for found in pattern.finditer(text):
        marks += (TEXT * (found.start() - at), SPECIAL * len(found[0]))
        at = found.end()
    return Marked(text, "".join(marks) + TEXT * (len(text) - at))


def concat(parts: Iterable[str]) -> str:
    """The parts as one string, as jinja joins what a template writes."""
    parts = list(parts)
    text = "".join(parts)
    return Marked(text, "".join(map(_marks_of, parts))) if any(isinstance(part, Marked) for part in parts) else text


def special_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where a text may be special tokens: the longest runs of such characters."""
    for run in re.finditer(re.escape(SPECIAL) + "+", _marks_of(text)):
        yield run.span()


def _marks_of(text: str) -> str:
    return text._marks if isinstance(text, Marked) else TEXT * len(text)
