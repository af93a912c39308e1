"""What each preset of the vocoder costs, and how far its log-mel frames and words are from those of the faithful one.

    python -m demos.bench_presets

The talker says sentences of the packaged evaluation set once; every preset makes sound of the same codes and the same noise.
Fails where an error exceeds its limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni import Omni
from omni.engine.options import Options
from omni.evaluate import read_set
from omni.recogniser import Recogniser, edits, words_of
from omni.talker.vocoder import PRESETS, WHOLE


@dataclass(frozen=True)
class Limits:
    """Largest errors against the faithful preset: of log-mel values, and words in a hundred understood less."""

    rmse: float
    worst: float
    words: float


LIMITS = {"fast": Limits(0.02, 0.2, 2.0), "turbo": Limits(0.05, 0.5, 3.0)}


@dataclass(frozen=True)
class Sentence:
    text: str
    voice: str
    codes: list[int]


@dataclass(frozen=True)
class Made:
    """Of all sentences: log-mel frames and waves; seconds for frames, for both, and of sound."""

    mels: list[Tensor]
    waves: list[Tensor]
    flow: float
    total: float
    sound: float


def say(omni: Omni, texts: Sequence[str]) -> list[Sentence]:
    """What the talker makes of each text, in turns by every voice."""
    out, voices = [], list(omni.voices)
    for i, text in enumerate(texts):
        voice = voices[i % len(voices)]
        request = omni.request((), voice, Options(seed=i, max_audio_seconds=10.0, chunks=WHOLE))
        omni.give(request, text)
        list(omni.run(request))
        assert request.speech
        out.append(Sentence(text, voice, request.speech.codes))
    return out


@torch.inference_mode()
def make(omni: Omni, sentences: Sequence[Sentence]) -> Made:
    # the processor time of one thread leaves out what other programs of the machine take
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    vocoder = omni.model.token2wav
    assert vocoder
    voices = {name: vocoder.prepare(voice) for name, voice in omni.voices.items()}
    mels, waves, flow, total = [], [], 0.0, 0.0
    for seed, sentence in enumerate(sentences):
        state = vocoder.start(voices[sentence.voice], seed=seed, chunks=WHOLE)
        vocoder.push(state, sentence.codes)
        state.ended = True
        start = clock()
        mels += vocoder.mels([state])
        middle = clock()
        waves += vocoder.waves([state], mels[-1:])
        flow, total = flow + middle - start, total + clock() - start
    return Made(mels, waves, flow, total, sum(map(len, waves)) / vocoder.sample_rate)


def understood(recogniser: Recogniser, made: Made, sentences: Sequence[Sentence], sample_rate: int) -> float:
    """Words in a hundred."""
    right = total = 0
    for wave, sentence in zip(made.waves, sentences, strict=True):
        words = words_of(sentence.text)
        right += len(words) - edits(words, recogniser.hear((wave.numpy(), sample_rate)))
        total += len(words)
    return 100 * right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint's folder or hub id; else the bundled one")
    parser.add_argument("--sentences", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest is told")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    evaluation = read_set(None, ["speaks", "says"])
    texts = [case.say or case.turns[-1].answer for case in evaluation.cases][: given.sentences]
    models = {name: Omni.load(given.model, vocoder=name, device="cpu", progress=False) for name in PRESETS}
    faithful = models["faithful"]
    sentences, recogniser = say(faithful, texts), Recogniser(evaluation.sentences)
    rounds = [{name: make(omni, sentences) for name, omni in models.items()} for _ in range(given.rounds)]
    truth = torch.cat(rounds[0]["faithful"].mels)
    heard_of_truth = understood(recogniser, rounds[0]["faithful"], sentences, faithful.sample_rate)
    print(
        f"{len(sentences)} sentences, {rounds[0]['faithful'].sound:.1f} s of sound, {given.threads} threads; "
        f"log-mel values lie {truth.std():.1f} around their mean\n\n"
        f"{'preset':10}{'evaluations':>12}{'flow s':>9}{'flow RTF':>10}{'vocoder RTF':>13}{'rmse':>9}{'max':>8}{'words':>9}"
    )
    faults = []
    for name, preset in PRESETS.items():
        best = min((each[name] for each in rounds), key=lambda made: made.total)
        error = torch.cat(best.mels) - truth
        rmse, worst = float(error.square().mean().sqrt()), float(error.abs().max())
        heard = understood(recogniser, best, sentences, faithful.sample_rate)
        print(
            f"{name:10}{preset.solver.num_evaluations:12}{best.flow:9.2f}{best.flow / best.sound:10.3f}"
            f"{best.total / best.sound:13.3f}{rmse:9.4f}{worst:8.3f}{heard:7.1f} %"
        )
        if (limits := LIMITS.get(name)) and (
            rmse > limits.rmse or worst > limits.worst or heard_of_truth - heard > limits.words
        ):
            faults.append(f"{name}: errs by more than {limits}")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
