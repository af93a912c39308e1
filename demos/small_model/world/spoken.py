"""What the model's voice can say, and how that may be written: the checkpoint's `spoken.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demos.small_model.world.questions import ONES, TENS, vocabulary
from omni.script.wording import FILE, Wording

LONGEST = 60
"""Characters; of what it speaks well at once the longest is counting to ten."""
SENTENCES = 1
"""It was taught up to three in a row, but loses words of several: its own ears got 89 % of two, 40 % of three."""

_IS = ("he", "she", "it", "that", "this", "what", "who", "where", "when", "how", "there")
_NOT = ("are", "could", "did", "do", "does", "is", "should", "would")
_SIGNS = {"&": "and", "+": "plus", "=": "is", "@": "at", "1st": "first", "2nd": "second"}
_SPELLINGS = {
    "cannot": "can not", "can't": "can not", "won't": "will not", "ok": "okay", "colour": "color", "colours": "colors",
    "favourite": "favorite", "grey": "gray", "i'm": "I am",
}  # fmt: skip


def written() -> dict[str, str]:
    """What else may be written for words of the world, in small letters."""
    out = _SIGNS | _SPELLINGS
    out |= {f"{verb}n't": f"{verb} not" for verb in _NOT}
    out |= {f"{who}'s": f"{who} is" for who in _IS}
    out |= {f"{who}'re": f"{who} are" for who in ("you", "we", "they")}
    out |= {f"{who}'ll": f"{who} will" for who in ("you", "we", "they", "he", "she", "it", "that", "this")} | {
        "i'll": "I will"
    }
    out |= {f"{who}'ve": f"{who} have" for who in ("you", "we", "they")} | {"i've": "I have"}
    return dict(sorted(out.items()))


def spoken() -> dict[str, Any]:
    numbers = {"ones": list(ONES), "tens": TENS, "hundred": "hundred", "point": "point", "minus": "minus"}
    return {
        "longest": LONGEST,
        "sentences": SENTENCES,
        "numbers": numbers,
        "written": written(),
        "words": list(vocabulary()),
    }


def write(folder: Path) -> None:
    """Beside a checkpoint."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in spoken().items()]
    (folder / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    Wording.read(folder)  # raises where it uses words that are not there
