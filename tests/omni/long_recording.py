"""Whether a long recording is written down as well as its sentences are one by one, within bounded memory.

    python -m tests.omni.long_recording [MINUTES]

It is made of the evaluation set's sentences with pauses between them. Fails where less than 95 % is left of the words that
are right alone, or where memory grows by more than the recording at 16 kHz and 200 MB.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray

from omni import Omni
from omni.encoders.waves import read_audio
from omni.evaluation.evaluate import read_set
from omni.evaluation.recogniser import edits, words_of

RATE, LEVEL = 16000, 0.05
LEAST_SHARE, MOST_MB = 0.95, 200


def sentences() -> list[tuple[str, NDArray[np.float32]]]:
    """All that is said in the evaluation set, and the recordings of it, as loud as each other."""
    found = []
    for case in read_set().cases:
        for turn in case.turns:
            heard = [part["audio"] for part in turn.content if part["type"] == "audio"]
            said = turn.said or (turn.answer if case.row == "hears" else "")
            if heard and said:
                wave = read_audio(heard[0], RATE)
                found.append((said, wave * np.float32(LEVEL / np.sqrt(np.mean(wave**2)))))
    return found


def edits_of(said: str, heard: str) -> int:
    return edits(words_of(said), words_of(heard))


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(minutes: float = 20) -> bool:
    omni = Omni.load(speech=False, progress=False)
    known, rng = sentences(), np.random.default_rng(1)
    order: list[int] = []
    pieces: list[NDArray[np.float32]] = []
    while sum(map(len, pieces)) < 60 * minutes * RATE:
        order.append(int(rng.integers(len(known))))
        pause = 1e-4 * rng.standard_normal(int(rng.uniform(0.2, 0.8) * RATE))
        pieces += [known[order[-1]][1], pause.astype(np.float32)]
    wave = np.concatenate(pieces)

    ask = {"type": "text", "text": omni.runtime.dictation.instruction}
    alone = {}
    for i in set(order):
        content = [{"type": "audio", "audio": (known[i][1], RATE)}, ask]
        text = omni.generate([{"role": "user", "content": content}], temperature=0.0, max_tokens=64).text
        alone[i] = edits_of(known[i][0], text)
    num_words = sum(len(words_of(known[i][0])) for i in order)
    single = 1 - sum(alone[i] for i in order) / num_words

    before, began = memory_mb(), time.perf_counter()
    written = omni.transcribe((wave, RATE))
    took, grown = time.perf_counter() - began, memory_mb() - before
    whole = 1 - edits_of(" ".join(known[i][0] for i in order), written.text) / num_words
    print(
        f"{len(order)} sentences, {written.seconds / 60:.1f} min, {len(written.segments)} segments: {whole:.1%} of words, "
        f"alone {single:.1%}; {took:.0f} s, {took / written.seconds:.3f} of real time; {grown:.0f} MB more"
    )
    return whole >= LEAST_SHARE * single and grown < MOST_MB + wave.nbytes / 2**20


if __name__ == "__main__":
    sys.exit(not main(*map(float, sys.argv[1:])))
