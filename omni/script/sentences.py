"""Text cut at sentences, whole or as it comes; the pieces joined are the text.

A mark ends a sentence where white space or the text's end follows, and what stands before and behind it does not say
otherwise: abbreviations, initials, numbers of a list, a small letter. Marks of scripts that need no space end one where they
stand. A line break ends one too, but where a line was only wrapped. What a cut depends on ends with the first letter behind
it, so text that comes in pieces is cut as the whole is. Sentences beyond a length are cut at clauses, else at spaces, else
between characters that no word spans.

Libraries that know abbreviations of many languages read a whole text, and cut its beginning differently once they have seen
more of it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

ENDS = ".!?…؟۔։．"
WIDE = "。！？｡।॥။።។⁈⁇⁉‼"
CLOSERS = "\"'”’»)]}」』）】》〉〕*_"
OPENERS = "\"'“‘«„‚([{「『（【《〈¿¡*_"
BREAKS = "\n\r\v\f\x85\u2028\u2029"
MARK = re.compile(rf"[{ENDS}{WIDE}][{re.escape(ENDS + WIDE + CLOSERS)}]*|[{BREAKS}]")
SPACE, LEADING = re.compile(r"\s*"), re.compile(rf"[\s{re.escape(OPENERS)}]*")
BEFORE = re.compile(r"[\w.&'’-]+\Z")
NEXT = re.compile(r"\w*")
BULLET = re.compile(r"[ \t]*[-*+•‣◦▪●–—·][ \t]+")
CLAUSE = re.compile(r"[,;:—–،؛)\]»”][\s]+|\s[-–—]\s+|[、，；：]")
WRAPPED = 40
"""Characters of a line that was maybe broken for its width alone."""
TIGHT = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI ")
"""Scripts beside the wide ones that put no space between words."""

_TITLES = (
    "adm amb approx assoc asst attn ave bldg blvd bzw ca capt cf cmdr co col comdr cpl dept dhr dott dr dra drs ed eds esp "
    "est etw evtl fr gen ggf gov hon hr hrsg ing inkl insp jr lic lt ltd messrs mevr mgr mio misc mlle mm mme mr mrd mrs ms "
    "mt mult nr núm op orig pág pp pres prof pvt resp rev sen sgt sig sigg sog sr sra srta st sta str supt tel univ urspr "
    "vgl viz vol vs zzgl гг им млн млрд проф руб см стр тыс ул"
)
TITLES = frozenset(_TITLES.split())
"""What never ends a sentence, since something always follows; `JOINED` likewise."""
_JOINED = "a.k.a b.z.w d.h e.g i.d.r i.e m.a.w n.b o.a o.ä p.s u.a u.u v.a w.o z.b z.t т.е т.н"
JOINED = frozenset(_JOINED.split())
_NUMBERED = (
    "abb abs apr art aug bd ch chap cl dec eq ex feb fig figs fol jan jul jun kap lib mar mart no nos nov nr oct okt p par "
    "pt r s sec sect sep sept tab theor v vers vol"
)
NUMBERED = frozenset(_NUMBERED.split())
"""What ends none before a number."""
_MONTHS = "januar februar märz april mai juni juli august september oktober november dezember jahrhundert"
MONTHS = frozenset(_MONTHS.split())
"""What follows an ordinal where those are written with a full stop."""


@dataclass
class CutState:
    """Attributes:
    text: what has come and is not cut yet.
    column: characters of its first line that were.
    """

    text: str = ""
    column: int = 0


class SentenceCutter:
    """Args:
    longest: characters of a sentence; longer ones are cut.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def start(self) -> CutState:
        return CutState()

    def step(self, state: CutState, text: str) -> list[str]:
        """The sentences that this piece of text makes sure."""
        state.text += text
        return self._cut(state, final=False)

    def finish(self, state: CutState) -> list[str]:
        """What is left."""
        return self._cut(state, final=True)

    def _cut(self, state: CutState, *, final: bool) -> list[str]:
        text, at, out = state.text, 0, list[str]()
        while at < len(text) and (stop := self._stop(text, at, state.column, final)):
            out.append(text[at:stop])
            broken = max(text.rfind(sign, at, stop) for sign in BREAKS)
            state.column = stop - at + state.column if broken < 0 else stop - broken - 1
            at = stop
        state.text = text[at:]
        return out

    def _stop(self, text: str, at: int, column: int, final: bool) -> int:
        """Where the sentence from `at` on ends, the white space behind it included; 0 where that is not sure."""
        last = at + self.longest
        for mark in MARK.finditer(text, at, min(len(text), last)):
            stop = _break(text, at, mark, column, final) if mark[0] in BREAKS else _end(text, at, mark, final)
            if stop is None:
                return 0
            if stop:
                return stop
        if len(text) > last + 1 or (final and len(text) > last):
            return _shortened(text, at, last)
        return len(text) if final else 0


def _end(text: str, at: int, mark: re.Match[str], final: bool) -> int | None:
    """Where a sentence ends whose mark this is; 0 where it ends none, None where that is not sure."""
    wide = any(sign in WIDE for sign in mark[0])
    gap = SPACE.match(text, mark.end())
    assert gap
    if mark.end() == len(text):
        return len(text) if final else None
    if not gap[0] and not wide:
        return 0
    broken = _first_break(gap[0])
    ahead = LEADING.match(text, mark.end())
    assert ahead
    if not broken and ahead.end() == len(text):
        return len(text) if final else None
    if not wide and mark[0].rstrip(CLOSERS) == "." and _goes_on(text, at, mark.start(), ahead.end()):
        known = ahead.end() < len(text) or final
        return 0 if known else None
    if broken:  # what follows tells nothing more
        if gap[0][broken - 1] == "\r" and gap.end() == len(text) and broken == len(gap[0]) and not final:
            return None
        return mark.end() + broken
    if not wide and text[ahead.end()].islower() and not _begins_small(text, at):
        return 0
    return gap.end()


def _goes_on(text: str, at: int, dot: int, next_word: int) -> bool:
    """Whether a full stop belongs to the word before it, and a sentence goes on behind."""
    found = BEFORE.search(text, max(at, dot - 32), dot)
    if not found:
        return False
    word, follower = found[0].strip("'’-"), NEXT.match(text, next_word)
    assert follower
    small, after = word.casefold(), follower[0]
    if small in TITLES or small in JOINED or (small in NUMBERED and after[:1].isdigit()):
        return True
    if small.isdigit():
        return _is_first(text, at, found.start()) or (len(small) < 3 and after.casefold() in MONTHS)
    if len(word) == 1:
        return (word.isupper() and word != "I") or (word.isalpha() and word.isascii() and _is_first(text, at, found.start()))
    parts = word.split(".")
    return len(parts) > 1 and all(len(part) == 1 and part.isupper() for part in parts)  # U.S. troops


def _is_first(text: str, at: int, word: int) -> bool:
    """Whether a word is the first of a sentence: the number of a list, then."""
    before = text[at:word]
    return not re.sub(r"[\W_]", "", before)


def _begins_small(text: str, at: int) -> bool:
    """Whether a sentence is written without a capital, as the one behind it may be."""
    ahead = LEADING.match(text, at)
    assert ahead
    return text[ahead.end() : ahead.end() + 1].islower()


def _break(text: str, at: int, mark: re.Match[str], column: int, final: bool) -> int | None:
    """As `_end`, for the line break that a mark is."""
    begin = len(text[at : mark.start()].rstrip()) + at
    if begin == at:
        return 0
    gap = SPACE.match(text, begin)
    assert gap
    if mark[0] == "\r" and mark.end() == len(text) and not final:
        return None
    stop = begin + _first_break(gap[0])
    if mark.start() >= stop:
        return 0  # of the same gap as a break before it
    line = max(text.rfind(sign, at, begin) for sign in BREAKS)
    width = begin - at + column if line < 0 else begin - line - 1
    judged = text[begin - 1] in ENDS + CLOSERS and text[begin - 1] not in "*_"
    if not judged and width < WRAPPED:
        return stop
    if gap.end() == len(text):
        return len(text) if final else None
    if _num_breaks(gap[0]) > 1 or BULLET.match(text, gap.end()):
        return stop
    return 0 if judged or text[gap.end()].islower() else stop


def _first_break(gap: str) -> int:
    """The end of the first line break in white space; 0 where there is none."""
    for i, sign in enumerate(gap):
        if sign in BREAKS:
            return i + 1 + (gap[i : i + 2] == "\r\n")
    return 0


def _num_breaks(gap: str) -> int:
    return sum(sign in BREAKS for sign in gap.replace("\r\n", "\n"))


def _shortened(text: str, at: int, last: int) -> int:
    """Where a sentence that is too long is cut: as late as can be, at a clause, a space, or a safe character."""
    clauses = [found.end() for found in CLAUSE.finditer(text, at, last) if found.end() - at > (last - at) // 4]
    if clauses:
        return clauses[-1]
    spaces = [found.end() for found in re.finditer(r"\s+", text[at:last]) if found.start()]
    if spaces:
        return at + spaces[-1]
    places = range(last, at, -1)
    between = (p for p in places if not _is_inside(text[p - 1], text[p]) and not (_spells(text[p - 1]) and _spells(text[p])))
    return next(between, 0) or next((p for p in places if not _is_inside(text[p - 1], text[p])), last)


def _is_inside(before: str, after: str) -> bool:
    """Whether a cut between two characters would tear what is drawn or read as one."""
    joins = unicodedata.category(after)[0] == "M" or after in "\u200d\ufe0f" or "🏻" <= after <= "🏿"
    return joins or before == "\u200d" or "เ" <= before <= "ไ" or "ເ" <= before <= "ໄ"


def _spells(sign: str) -> bool:
    """Whether it is a letter or digit of a script that puts spaces between words."""
    if not sign.isalnum() or unicodedata.east_asian_width(sign) in "WF":
        return False
    return not unicodedata.name(sign, "").startswith(TIGHT)


def plain(sentence: str) -> str:
    """A sentence as it is read: without the bullet before it, and with one space for any white space."""
    bullet = BULLET.match(sentence.lstrip())
    return " ".join(sentence.lstrip()[bullet.end() if bullet else 0 :].split())


def has_words(text: str) -> bool:
    """Whether there is anything to say in it."""
    return any(sign.isalnum() for sign in text)
