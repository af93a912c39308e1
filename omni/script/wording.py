"""How a sentence is put into words that a voice has: what a checkpoint's `spoken.json` says, where it has one.

Published checkpoints have none: they were taught to read any text, and get it as it is. A voice of few words makes noise of
all others, numbers and signs included, so its checkpoint lists them, and how they are written beside that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni.errors import CheckpointError
from omni.loading.json import Node, damage_told, read_json
from omni.script.sentences import has_words, plain

FILE = "spoken.json"
LONGEST = 300
"""Characters that are spoken at once where a checkpoint does not say: some 20 seconds."""
TOKEN = re.compile(
    r"(?P<pause>\.{2,}|\s[-–—]\s)"
    r"|(?P<ordinal>\d+(?:st|nd|rd|th)\b)"
    r"|(?P<clock>\b\d{1,2}:[0-5]\d\b)"
    r"|(?P<number>(?<![\w.,])[-−](?=\d)|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"|(?P<word>[^\W\d_](?:\.[^\W\d_])+\b|[^\W\d_]+(?:['’][^\W\d_]+)*)"
    r"|(?P<space>\s+)"
    r"|(?P<rest>.)",
    re.IGNORECASE | re.DOTALL,
)
MARKS = {
    ",": ",;:،、，；：—–…", ".": ".。।॥｡۔։", "?": "?？؟", "!": "!！",
}  # fmt: skip
MARK_OF = {sign: mark for mark, signs in MARKS.items() for sign in signs}
FIRST_YEAR, LAST_YEAR = 1100, 2099
"""Numbers that are read as years, in two halves, where they are written without a comma."""


@dataclass(frozen=True)
class Spoken:
    """What is said of a text.

    Attributes:
        text: the words that the voice is given.
        missing: words and signs of the text that it has no sound for, and that are left out; each once.
    """

    text: str
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a listener should be told, a sentence each."""
        return (f"left out, for this voice has no sound for it: {', '.join(self.missing)}",) if self.missing else ()


@dataclass(frozen=True)
class Numbers:
    """Words of numbers: 0 to 19, tens from 20 on, and the others, each empty where there is none."""

    ones: tuple[str, ...]
    tens: tuple[str, ...]
    hundred: str
    point: str
    minus: str

    def read(self, digits: str) -> str:
        """A number without sign: as a whole where there are words for it, else digit by digit."""
        whole, dot, rest = digits.replace(",", "").partition(".")
        if dot and self.point:
            return f"{self.read(whole)} {self.point} {self._spelled(rest)}"
        if len(whole) == 4 and "," not in digits and FIRST_YEAR <= int(whole) <= LAST_YEAR and whole[1:3] != "00":
            return self._year(whole)
        if len(whole) > 3 or (len(whole) > 1 and whole[0] == "0") or (len(whole) == 3 and not self.hundred):
            return self._spelled(whole)
        return self._below_thousand(int(whole))

    def clock(self, digits: str) -> str:
        """Of a time such as 3:05."""
        hours, minutes = digits.split(":")
        return self._below_thousand(int(hours)) + (f" {self._pair(minutes)}" if minutes != "00" else "")

    def _year(self, digits: str) -> str:
        century = self._below_thousand(int(digits[:2]))
        return f"{century} {self.hundred}" if digits[2:] == "00" else f"{century} {self._pair(digits[2:])}"

    def _pair(self, digits: str) -> str:
        return self._spelled(digits) if digits[0] == "0" else self._below_thousand(int(digits))

    def _spelled(self, digits: str) -> str:
        return " ".join(self.ones[int(digit)] for digit in digits)

    def _below_thousand(self, n: int) -> str:
        if n < 20:
            return self.ones[n]
        if n < 100:
            return self.tens[n // 10 - 2] + (f" {self.ones[n % 10]}" if n % 10 else "")
        rest = f" {self._below_thousand(n % 100)}" if n % 100 else ""
        return f"{self.ones[n // 100]} {self.hundred}{rest}"


@dataclass(frozen=True)
class Wording:
    """What a voice can be given to say.

    Attributes:
        longest: characters that it was taught to speak at once.
        sentences: that it was taught to speak at once.
        words: that it has, by their small letters; None for one that reads any text.
        written: what else may be written for them, in small letters: "it's", "&".
        numbers: None for a voice that reads any text.
    """

    longest: int = LONGEST
    sentences: int = LONGEST
    words: Mapping[str, str] | None = None
    written: Mapping[str, str] | None = None
    numbers: Numbers | None = None

    @classmethod
    def read(cls, folder: Path) -> Wording:
        """From a checkpoint's file, where it has one; CheckpointError where that is damaged."""
        path = folder / FILE
        if not path.exists():
            return cls()
        node = Node(read_json(path), FILE)
        with damage_told(FILE):
            words = {word.casefold(): word for word in map(str, node.words)}
            numbers = node.child("numbers")
            made = cls(
                int(node.longest),
                int(node.sentences),
                words,
                {str(key): str(value) for key, value in dict(node.written).items()},
                Numbers(
                    tuple(map(str, numbers.ones)),
                    tuple(map(str, numbers.tens)),
                    *(str(numbers.get(name, "")) for name in ("hundred", "point", "minus")),
                ),
            )
        made.check()
        return made

    def check(self) -> None:
        """Raise CheckpointError where its numbers or spellings need words that it does not have."""
        assert self.words is not None and self.written is not None and self.numbers
        n = self.numbers
        if min(self.longest, self.sentences) < 1 or (len(n.ones), len(n.tens)) != (20, 8):
            raise CheckpointError(
                f"{FILE} does not give lengths from 1 on, and words for 0 to 19 and 20 to 90; fetch it again"
            )
        used = " ".join((*n.ones, *n.tens, n.hundred, n.point, n.minus, *self.written.values())).split()
        if strange := sorted({word for word in used if word.casefold() not in self.words}):
            raise CheckpointError(f"{FILE} uses words that it does not list: {', '.join(strange)}; fetch it again")

    def spoken(self, sentence: str) -> Spoken:
        """A sentence, or a few, as the voice is given them; no text where there is nothing to say."""
        if self.words is None:
            return Spoken(plain(sentence) if has_words(sentence) else "")
        said, missing = list[str](), dict[str, str]()
        for written, words in self._words_of(plain(sentence)):
            if words is None:
                missing.setdefault(written.casefold(), written)
            elif words:
                said.append(words)
        return Spoken(_joined(said), tuple(missing.values()))

    def _words_of(self, sentence: str) -> Iterator[tuple[str, str | None]]:
        """What is written, and the words or the mark said for it: none for what is not said, None for what cannot be."""
        assert self.words is not None and self.written is not None and self.numbers
        strange = ""
        for found in TOKEN.finditer(unicodedata.normalize("NFKC", sentence)):
            sign, written = found[0], found[0].casefold().replace("’", "'")
            if found["rest"] and sign not in MARK_OF and written not in self.written and not _is_silent(sign):
                strange += sign
                continue
            if strange:
                yield strange, None
                strange = ""
            if found["pause"]:
                yield sign, self._pause(found)
            elif found["word"] and written in self.words:
                yield sign, self.words[written]
            elif written in self.written:
                yield sign, self.written[written]
            elif found["clock"]:
                yield sign, self.numbers.clock(sign)
            elif found["number"]:
                if sign in "-−":
                    yield sign, self.numbers.minus or None
                else:
                    yield sign, self.numbers.read(sign)
            elif found["word"] or found["ordinal"]:
                yield sign, None
            else:
                yield sign, MARK_OF.get(sign, "")
        if strange:
            yield strange, None

    def _pause(self, found: re.Match[str]) -> str:
        """What dots, or a dash between spaces, are read as; between numbers it takes one from the other."""
        assert self.numbers
        before, after = found.string[: found.start()][-1:], found.string[found.end() : found.end() + 1]
        is_minus = found[0].strip() == "-" and before.isdigit() and after.isdigit()
        return self.numbers.minus or "," if is_minus else ","


def _is_silent(sign: str) -> bool:
    """Whether a sign is read as nothing: quotes, brackets, hyphens, spaces."""
    return unicodedata.category(sign)[0] in "PZ" and sign not in "%&@#§‰†"


def _joined(said: Sequence[str]) -> str:
    """Words and marks as one sentence: a comma where a mark stands inside it, the last mark at its end."""
    out, mark = "", ""
    for item in said:
        if item in MARKS:
            mark = item if not mark or mark == "," else mark
        else:
            out += f"{',' if mark and out else ''} {item}" if out else item
            mark = ""
    if not out:
        return ""
    return out[0].upper() + out[1:] + (mark if mark in (".", "?", "!") else ".")
