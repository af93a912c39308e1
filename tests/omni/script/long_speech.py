"""A long text spoken by the small model and heard by its own ears, sentence by sentence.

    python -m tests.omni.script.long_speech [SENTENCES]

Fails where sentences are heard worse than alone, out of order or with gaps, or where memory goes on growing.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from random import Random
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from demos.small_model.world.questions import any_turn
from omni import AudioChunk, Done, Omni, TextDelta
from omni.evaluation.evaluate import REPEAT
from omni.evaluation.recogniser import edits, words_of

AUDIBLE = 0.01
ALONE = 50
"""Sentences that are spoken by themselves, too, to compare with."""
LEAST_WORDS, MOST_GAP, MOST_STEP, MOST_MB, AS_WHOLE = 0.9, 0.5, 0.02, 30, 0.1


@dataclass(frozen=True)
class Heard:
    """Attributes:
    sentences: (as written, as the model heard it), in order.
    gap: the longest silence between two sentences, in seconds.
    step: the largest jump between two samples at a seam.
    memory: MB, half way and at the end.
    """

    sentences: list[tuple[str, str]]
    gap: float
    step: float
    memory: tuple[float, float]
    done: Done

    @property
    def words(self) -> float:
        """The share of words that were heard as they were written."""
        said = [(words_of(text), words_of(heard)) for text, heard in self.sentences]
        return 1 - sum(edits(*pair) for pair in said) / sum(len(words) for words, _ in said)

    @property
    def whole(self) -> float:
        """The share of sentences that were."""
        return sum(words_of(text) == words_of(heard) for text, heard in self.sentences) / len(self.sentences)


def sentences(count: int, seed: int = 3) -> list[str]:
    """Questions and answers of the small world."""
    rng, out = Random(seed), list[str]()
    while len(out) < count:
        turn = any_turn(rng)
        text = rng.choice((turn.question, turn.answer))
        if len(text) <= 60 and sum(sign in ".?!" for sign in text) == 1:
            out.append(text)
    return out


def listen(omni: Omni, texts: list[str], *, voice: str = "Chelsie", seed: int = 1) -> Heard:
    """Say all in one, and hear each."""
    written, lengths, memory = list[str](), list[int](), list[float]()
    with TemporaryFile() as sound:  # kept in memory, it would count as what speaking takes
        for event in omni.say(" ".join(texts), voice=voice, seed=seed):
            match event:
                case TextDelta(text):
                    written.append(text)
                    lengths.append(0)
                    memory.append(
                        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
                    )
                case AudioChunk():
                    sound.write(event.samples.astype(np.float32).tobytes())
                    lengths[-1] += len(event.samples)
                case Done():
                    done = event
        sound.seek(0)
        each = [np.frombuffer(sound.read(4 * length), np.float32) for length in lengths]
    edges = [np.flatnonzero(np.abs(wave) > AUDIBLE)[[0, -1]] for wave in each]
    pairs = list(zip(each[:-1], each[1:], edges[:-1], edges[1:], strict=True))
    gap = max((len(one) - ends[1] + begins[0] for one, _, ends, begins in pairs), default=0) / omni.sample_rate
    step = max((abs(float(two[0] - one[-1])) for one, two, _, _ in pairs), default=0.0)
    heard = [_heard(omni, wave) for wave in each]
    return Heard(list(zip(written, heard, strict=True)), gap, step, (memory[len(memory) // 2], memory[-1]), done)


def _heard(omni: Omni, wave: NDArray[np.float32]) -> str:
    content = [{"type": "audio", "audio": (wave, omni.sample_rate)}, {"type": "text", "text": REPEAT}]
    return omni.generate([{"role": "user", "content": content}], max_tokens=64).text


def show(omni: Omni, texts: list[str]) -> bool:
    """Print how they are spoken together and alone; whether that is as it should be."""
    heard = listen(omni, texts)
    alone = [listen(omni, [text], seed=i) for i, text in enumerate(texts[:ALONE])]
    whole = sum(each.whole for each in alone) / len(alone)
    grown = heard.memory[1] - heard.memory[0]
    in_order = [text.strip() for text, _ in heard.sentences] == texts
    print(
        f"{len(texts)} sentences, {heard.done.timings.audio:.0f} s of sound in {heard.done.timings.total:.0f} s, "
        f"{'in order' if in_order else 'NOT IN ORDER'}; own ears: {heard.words:.1%} of words, {heard.whole:.1%} of "
        f"sentences whole ({whole:.1%} of the first {len(alone)} alone); longest gap {heard.gap:.2f} s, largest step "
        f"at a seam {heard.step:.4f}; {grown:.0f} MB more in the second half; warnings: {len(heard.done.warnings)}"
    )
    for text, own in heard.sentences:
        if words_of(text) != words_of(own):
            print(f"  {text.strip()} | {own}")
    fine = in_order and heard.words >= LEAST_WORDS and heard.whole >= whole - AS_WHOLE and not heard.done.limits
    return fine and heard.gap < MOST_GAP and heard.step < MOST_STEP and grown < MOST_MB


if __name__ == "__main__":
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    sys.exit(not show(Omni.load(progress=False), sentences(num)))
