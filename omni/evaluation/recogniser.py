"""A small speech recogniser that judges whether speech is intelligible; it knows the words there are, not those said."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni.encoders.waves import read_audio
from omni.errors import EvaluationError

try:
    import pocketsphinx
except ImportError:
    pocketsphinx = None

RATE = 16000
START, END = "<s>", "</s>"
BIGRAMS = 0.5
"""Weight of what usually follows a word; the rest is spread over all words alike, so that none is impossible."""
LANGUAGE_WEIGHT = 6.5
PEAK, HISS, SILENCE = 0.6, 2e-4, RATE // 5


def words_of(text: str) -> list[str]:
    """Its words without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def edits(said: Sequence[object], heard: Sequence[object]) -> int:
    """The fewest words put in, left out or replaced that make one of the other (Levenshtein's distance)."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def language_model(sentences: Sequence[str]) -> str:
    """Bigrams of these sentences interpolated with a flat unigram, in ARPA's format."""
    lines = [[START, *words_of(text), END] for text in sentences]
    pairs = Counter(pair for line in lines for pair in pairwise(line))
    first = Counter(word for line in lines for word in line[:-1])
    words = sorted({word for line in lines for word in line[1:-1]})
    flat, back = 1 / (len(words) + 1), math.log10(1 - BIGRAMS)
    unigrams = [f"-99 {START} {back:.4f}", f"{math.log10(flat):.4f} {END}"]
    unigrams += [f"{math.log10(flat):.4f} {word} {back:.4f}" for word in words]
    bigrams = [
        f"{math.log10(BIGRAMS * n / first[one] + (1 - BIGRAMS) * flat):.4f} {one} {two}"
        for (one, two), n in sorted(pairs.items())
    ]
    head = f"\\data\\\nngram 1={len(unigrams)}\nngram 2={len(bigrams)}\n"
    return "\n".join([head, "\\1-grams:", *unigrams, "", "\\2-grams:", *bigrams, "", "\\end\\", ""])


class Recogniser:
    """pocketsphinx with its English voice model and a language model of the given sentences.

    Raises:
        EvaluationError: pocketsphinx is not installed.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        if pocketsphinx is None:
            raise EvaluationError(
                "rows that judge speech need pocketsphinx; pip install omni-runtime[eval], or name other rows with --rows"
            )
        model = Path(pocketsphinx.get_model_path(), "en-us")
        known = {word for text in sentences for word in words_of(text)}
        spoken = (model / "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines(keepends=True)
        with tempfile.TemporaryDirectory() as folder:
            likely, words = Path(folder) / "sentences.arpa", Path(folder) / "words.dict"
            likely.write_text(language_model(sentences))
            # a second pronunciation is called "word(2)"
            words.write_text("".join(line for line in spoken if line.split()[0].partition("(")[0] in known))
            config = pocketsphinx.Config(
                hmm=str(model / "en-us"),
                dict=str(words),
                lm=str(likely),
                lw=LANGUAGE_WEIGHT,
                loglevel="FATAL",
            )
            self._decoder = pocketsphinx.Decoder(config)

    def hear(self, sound: Path | tuple[NDArray[np.float32], int]) -> list[str]:
        """The words in a file, or in samples `[S]` with their rate."""
        if isinstance(sound, tuple) and not len(sound[0]):
            return []
        quiet = np.pad(read_audio(sound, RATE), SILENCE)
        # digital silence upsets the recogniser's gain control
        wave = quiet + np.random.default_rng(0).standard_normal(len(quiet)) * HISS
        pcm = (wave * (PEAK / np.abs(wave).max()) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return words_of(found.hypstr) if found else []
