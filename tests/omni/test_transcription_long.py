"""A recording of twenty minutes is written down as well as its sentences are one by one, within bounded memory."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from omni import Omni
from omni.encoders.waves import read_audio
from omni.evaluation.evaluate import read_set
from omni.evaluation.recogniser import edits, words_of

RATE, MINUTES, LEVEL = 16000, 20, 0.1


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


def share(said: list[str], heard: str) -> float:
    words = words_of(" ".join(said))
    return 1 - edits(words, words_of(heard)) / len(words)


@pytest.mark.slow
def test_twenty_minutes() -> None:
    omni = Omni.load(speech=False, progress=False)
    alone = sentences()
    rng = np.random.default_rng(1)
    order: list[int] = []
    seconds = 0.0
    while seconds < 60 * MINUTES:
        order.append(int(rng.integers(len(alone))))
        seconds += len(alone[order[-1]][1]) / RATE + 0.5
    pieces = []
    for i in order:
        pause = rng.standard_normal(int(rng.uniform(0.2, 0.8) * RATE)) * 1e-4
        pieces += [alone[i][1], pause.astype(np.float32)]
    wave = np.concatenate(pieces)

    instruction = omni.runtime.dictation.instruction
    heard = [
        omni.generate(
            [{"role": "user", "content": [{"type": "audio", "audio": (w, RATE)}, {"type": "text", "text": instruction}]}],
            temperature=0.0,
            max_tokens=64,
        ).text
        for _, w in alone
    ]
    single = share([alone[i][0] for i in order], " ".join(heard[i] for i in order))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    written = omni.transcribe((wave, RATE))
    took, grown = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    whole = share([alone[i][0] for i in order], written.text)
    print(
        f"{len(order)} sentences, {written.seconds / 60:.1f} min, {len(written.segments)} segments: "
        f"words {whole:.3f}, alone {single:.3f}; {took:.0f} s, {took / written.seconds:.3f} of real time; "
        f"{grown / 1024:.0f} MB more"
    )
    assert whole >= 0.95 * single
    assert grown < 300 * 1024
    starts = [segment.start for segment in written.segments]
    assert starts == sorted(starts) and written.segments[-1].end <= written.seconds
