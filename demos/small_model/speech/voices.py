"""Who speaks to the model: many synthetic voices, and what they say.

    python -m demos.small_model.speech.voices [SHARDS]

The two voices that the model itself speaks with are in `corpus`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TypedDict

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from pocketsphinx import get_model_path

from demos.small_model import BUILD
from demos.small_model.files import save
from demos.small_model.nets import senses
from demos.small_model.speech.espeak import Unit
from demos.small_model.speech.synthesisers import say_timed
from demos.small_model.world import questions, scenes, sounds

RATE = 16000
FLITE = ("slt", "rms", "kal16", "awb")
_KINDS = "m1 m2 m3 m4 m7 f1 f2 f3 f4 f5"
ESPEAK = tuple(f"{accent}+{kind}" for accent in ("en-us", "en", "en-us") for kind in _KINDS.split())
RATES = {"train": (0.85, 0.95, 1.05, 1.15, 1.3), "test": (0.9, 1.0, 1.1, 1.22)}
PITCHES = {"train": (0.8, 0.95, 1.05, 1.2), "test": (0.88, 1.0, 1.12)}
SHARD, SHARDS = 1000, 16


class Utterance(TypedDict):
    """`kind`: "words" for any sentence, "question", or "outside"; `wave`: int16 `[S]` at 16 kHz; `units`: its words."""

    text: str
    kind: str
    voice: str
    wave: NDArray[np.int16]
    units: list[Unit]


def speaker(rng: Random, split: str) -> tuple[str, float, float]:
    """A voice, its rate and its pitch."""
    voice = f"flite:{rng.choice(FLITE)}" if rng.random() < 0.45 else f"espeak:{rng.choice(ESPEAK)}"
    return voice, rng.choice(RATES[split]), rng.choice(PITCHES[split])


def utter(text: str, rng: Random, split: str) -> tuple[NDArray[np.float32], str, list[Unit]]:
    """A text in some voice: samples `[S]` at 16 kHz without the silence around them, who spoke, and when each word."""
    voice, rate, pitch = speaker(rng, split)
    wave, own_rate, units = say_timed(text, voice, rate, pitch)
    wave = soxr.resample(wave, own_rate, RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    first = max(0, loud[0] - 800)
    wave = wave[first : loud[-1] + 1600]
    units = [(word, start - first / RATE, end - first / RATE) for word, start, end in units]
    return 0.1 * wave / np.sqrt(np.mean(wave**2)), f"{voice} {rate} {pitch}", units


@lru_cache
def strangers(split: str) -> tuple[str, ...]:
    """English words that are not of the world, from the dictionary of the recogniser; one in ten kept for tests."""
    lines = Path(get_model_path(), "en-us", "cmudict-en-us.dict").read_text().splitlines()
    known = {word.lower() for word in questions.vocabulary()}
    words = [line.split()[0] for line in lines if line.split()[0].isalpha() and 4 <= len(line.split()[0]) <= 9]
    words = sorted(set(words) - known)
    return tuple(w for w in words if questions.held_out(w) == (split == "test") and hash_of(w) % 16 == 0)


def hash_of(word: str) -> int:
    return sum((i + 3) * ord(c) * 31 for i, c in enumerate(word))


def question(rng: Random) -> str:
    """Any question of the world."""
    while True:
        kind = rng.random()
        if kind < 0.2:
            text = questions.talk_turn(rng).question
        elif kind < 0.35:
            turns = questions.scene_dialogue(scenes.scene(rng), rng)
            text = turns[1].question if turns else questions.talk_turn(rng).question
        else:
            text = questions.any_turn(rng).question
        if not questions.held_out(text):
            return text


def _texts(seed: int) -> Iterator[tuple[str, str]]:
    rng = Random(seed)
    for _ in range(SHARD):
        kind = rng.random()
        if kind < 0.55:
            yield question(rng), "question"
        elif kind < 0.93:
            yield questions.spoken_sentence(rng), "words"
        else:
            yield questions.outside_turn(rng, strangers("train")).question, "outside"


def _shard(index: int) -> str:
    path = BUILD / "voices" / f"{index:02d}.pt"
    if path.exists():
        return f"{path.name} is there"
    rng, start = Random(1000 + index), time.time()
    utterances = []
    for text, kind in _texts(index):
        wave, voice, units = utter(text, rng, "train")
        if len(wave) < 6 * RATE:
            pcm = np.clip(wave * 32767, -32767, 32767).astype(np.int16)
            utterances.append(Utterance(text=text, kind=kind, voice=voice, wave=pcm, units=units))
    save(utterances, path)
    return f"{path.name} {len(utterances)} utterances in {time.time() - start:.0f} s"


def main(shards: int = SHARDS) -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        for line in pool.map(_shard, range(shards)):
            print(line, flush=True)


def wave_of(utterance: Utterance) -> NDArray[np.float32]:
    """Samples `[S]` in -1..1."""
    return (utterance["wave"] / np.float32(32768)).astype(np.float32)


def spliced(first: Utterance, second: Utterance, rng: Random) -> Utterance | None:
    """The beginning of one utterance and the end of another, so that what comes next cannot be guessed.

    None where they cannot be cut between words, or where the sentence is kept from training.
    """
    parts = []
    for utterance in (first, second):
        said = utterance["text"].rstrip(".?!").split()
        if len(said) != len(utterance["units"]) or len(said) < 2 or not all(word.isalpha() for word in said):
            return None
        parts.append(said)
    stop, start = rng.randrange(1, len(parts[0])), rng.randrange(1, len(parts[1]))
    text = " ".join(parts[0][:stop] + parts[1][start:]) + second["text"][-1]
    if questions.held_out(text):
        return None
    end, begin = first["units"][stop - 1][2], second["units"][start][1]
    wave = np.concatenate((first["wave"][: int(end * RATE)], second["wave"][int(begin * RATE) :]))
    moved = [(word, at + end - begin, to + end - begin) for word, at, to in second["units"][start:]]
    return Utterance(text=text, kind="words", voice=first["voice"], wave=wave, units=first["units"][:stop] + moved)


def soiled(utterance: Utterance, rng: Random, *, again: bool) -> senses.Heard:
    """An utterance as a microphone hears it; a little faster or slower if it is heard `again`."""
    ratio = rng.uniform(0.93, 1.08) if again else 1.0
    wave = senses.faster(wave_of(utterance), ratio)
    dirty, before = sounds.soiled(wave, rng)
    units = [(u, start / ratio + before, end / ratio + before) for u, start, end in utterance["units"] if u]
    return senses.Heard(senses.mel(dirty), units)


def load() -> list[Utterance]:
    return [u for path in sorted((BUILD / "voices").glob("*.pt")) for u in torch.load(path, weights_only=False)]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
