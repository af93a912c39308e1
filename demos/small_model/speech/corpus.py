"""Sentences spoken by the two synthesisers that the model's voices are made of.

    python -m demos.small_model.speech.corpus [WORKERS] [SHARDS]

Shards hold 250 sentences of one voice, and those that are there are not made again. `held.pt` holds sentences of both voices
that no shard holds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import TypedDict

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.files import log, save
from demos.small_model.speech.espeak import Unit, Wave
from demos.small_model.speech.synthesisers import say_aligned
from demos.small_model.world.questions import spoken_sentence
from omni.encoders.mel import filter_bank

FOLDER = BUILD / "corpus"
HELD = FOLDER / "held.pt"
VOICES = {"Chelsie": "flite:slt", "Ethan": "flite:rms"}
SAMPLE_RATE, HOP, NUM_BINS = 24000, 240, 80
CODE_SAMPLES = 2 * HOP
SENTENCES, SHARD, WITH_WAVE, HELD_OUT = 8000, 250, 1500, 60
LOUDNESS, AUDIBLE = 0.08, 0.004
"""RMS of every utterance, and RMS of 20 ms above which there is speech."""
BEFORE, AFTER = 0.06, 0.1
"""Seconds of silence that are left."""


class Utterance(TypedDict, total=False):
    """One sentence spoken by one voice.

    Attributes:
        mel: float16 `[T, 80]`, natural-log amplitudes, T even.
        units: words and punctuation marks, with seconds in the trimmed wave.
        phones: names, and the seconds in the trimmed wave at which they end.
        wav: float16 `[240 T]`; only for some utterances.
        clusters: int16 `[T / 2]`, see `codec`.
        unit: int16 `[T / 2]`, index of the unit spoken at each code.
    """

    text: str
    voice: str
    mel: Tensor
    units: list[Unit]
    phones: list[tuple[str, float]]
    wav: Tensor
    clusters: Tensor
    unit: Tensor


def mel_frames(wave: Tensor) -> Tensor:
    """Natural-log mel amplitudes, as BigVGAN reads them: `[T, 80]` from `[240 T]`."""
    size = 1024
    edge = (size - HOP) // 2
    padded = F.pad(wave[None, None], (edge, edge), mode="reflect")[0, 0]
    bins = torch.stft(padded, size, HOP, size, torch.hann_window(size), center=False, return_complex=True)
    amplitude = (bins.real.square() + bins.imag.square() + 1e-9).sqrt()
    return (filter_bank(NUM_BINS, size, SAMPLE_RATE, 8000.0) @ amplitude).clamp(min=1e-5).log().T.contiguous()


def trimmed(wave: Wave) -> tuple[Wave, float]:
    """A wave `[S]` at 24 kHz without its outer silence, S a multiple of 480, and the seconds cut off its start."""
    loud = np.sqrt(np.convolve(wave**2, np.full(CODE_SAMPLES, 1 / CODE_SAMPLES), "same"))
    speech = np.flatnonzero(loud > AUDIBLE)
    start = max(0, int(speech[0] - BEFORE * SAMPLE_RATE))
    stop = min(len(wave), int(speech[-1] + AFTER * SAMPLE_RATE))
    stop -= (stop - start) % CODE_SAMPLES
    return wave[start:stop], start / SAMPLE_RATE


def utterance(text: str, voice: str, with_wave: bool) -> Utterance:
    spoken, rate, units, phones = say_aligned(text, VOICES[voice])
    wave, cut = trimmed(soxr.resample(spoken, rate, SAMPLE_RATE))
    wave = (wave * (LOUDNESS / np.sqrt(np.mean(wave**2)))).clip(-0.98, 0.98)
    length = len(wave) / SAMPLE_RATE
    moved = [(unit, min(max(start - cut, 0.0), length), min(max(end - cut, 0.0), length)) for unit, start, end in units]
    samples = torch.from_numpy(wave.astype(np.float32))
    ends = [(name, end - cut) for name, end in phones]
    made = Utterance(text=text, voice=voice, mel=mel_frames(samples).half(), units=moved, phones=ends)
    if with_wave:
        made["wav"] = samples.half()
    return made


def sentences(seed: str, count: int, without: Collection[str] = ()) -> list[str]:
    """Distinct ones."""
    rng, seen = Random(seed), dict.fromkeys(without)
    while len(seen) < count + len(without):
        seen.setdefault(spoken_sentence(rng))
    return list(seen)[len(without) :]


def shard_paths(voice: str) -> list[Path]:
    return [FOLDER / f"{voice}-{i:02}.pt" for i in range(SENTENCES // SHARD)]


def load(path: Path) -> list[Utterance]:
    made: list[Utterance] = torch.load(path, weights_only=True)
    return made


def make_held_out() -> None:
    save([utterance(text, voice, True) for voice in VOICES for text in sentences("held out", HELD_OUT)], HELD)


def make(path: Path) -> float:
    """Synthesise one shard; returns seconds of speech."""
    torch.set_num_threads(1)
    voice, index = path.stem.split("-")
    first = int(index) * SHARD
    without = {u["text"] for u in load(HELD)}
    made = [utterance(text, voice, first < WITH_WAVE) for text in sentences(voice, first + SHARD, without)[first:]]
    save(made, path)
    seconds = sum(len(u["mel"]) for u in made) * HOP / SAMPLE_RATE
    print(f"{path.stem} {len(made)} utterances {seconds:.0f} s of speech", flush=True)
    return seconds


def main(workers: int = 2, shards: int = SENTENCES // SHARD) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    by_turns = [path for paths in zip(*(shard_paths(voice)[:shards] for voice in VOICES), strict=True) for path in paths]
    missing = [path for path in by_turns if not path.exists()]
    began = time.time()
    if not HELD.exists():
        make_held_out()
    with Pool(workers) as pool:
        seconds = sum(pool.imap_unordered(make, missing))
    minutes = (time.time() - began) / 60
    log(f"corpus {minutes:.1f} min: {len(missing)} shards made, {seconds / 60:.0f} min of speech, {workers} workers")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
