"""What each preset of the vocoder costs, and how far its sound is from that of the faithful one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from omni.api import Omni
from omni.bench.timing import Timer
from omni.engine.options import Options
from omni.evaluation.evaluate import EvalSet
from omni.evaluation.recogniser import Recogniser, edits, words_of
from omni.talker.vocoder import PRESETS
from omni.talker.voice import WHOLE, Frame


@dataclass(frozen=True)
class Limits:
    """Largest errors against the faithful preset: of log-mel values, and words in a hundred understood less."""

    rmse: float
    worst: float
    words: float


LIMITS = {"fast": Limits(0.02, 0.2, 2.0), "turbo": Limits(0.05, 0.5, 3.0)}
IN_BYTES = {"fast": Limits(0.04, 0.4, 2.0), "turbo": Limits(0.06, 0.6, 3.0)}
"""Where weights of fewer bits were asked for, so that the flow-matching blocks have eight."""
MAX_SECONDS = 10.0
"""Of speech for a sentence."""


@dataclass(frozen=True)
class Sentence:
    text: str
    voice: str
    frames: list[Frame]


@dataclass(frozen=True)
class Cost:
    """Attributes:
    evaluations: of the flow-matching transformer for a window.
    flow, total: seconds for log-mel frames, and for these and waves, for a second of sound.
    rmse, worst: of log-mel values, against the faithful preset's.
    words: of a hundred, that the recogniser understands.
    less: understood less than of the faithful preset, of a hundred.
    """

    name: str
    evaluations: int
    flow: float
    total: float
    rmse: float
    worst: float
    words: float
    less: float

    def missed(self, weights: str = "auto") -> list[str]:
        """What is off by more than it may be with weights of that kind."""
        limits = (LIMITS if weights == "auto" else IN_BYTES).get(self.name)
        if limits is None or (self.rmse <= limits.rmse and self.worst <= limits.worst and self.less <= limits.words):
            return []
        return [f"{self.name} errs by more than {limits}"]


def say(omni: Omni, texts: Sequence[str]) -> list[Sentence]:
    """What the talker makes of each text, in turns by every voice; VoiceError where there is none."""
    out, voices = [], list(omni.voices) or [omni.default_voice]
    for i, text in enumerate(texts):
        voice = voices[i % len(voices)]
        request = omni.runtime.request((), voice, Options(seed=i, max_audio_seconds=MAX_SECONDS, chunks=WHOLE))
        omni.runtime.give(request, omni.runtime.reader.tokenizer.encode(text))
        list(omni.runtime.run(request))
        assert request.speech
        out.append(Sentence(text, voice, request.speech.track.frames))
    return out


@torch.inference_mode()
def measure(models: Mapping[str, Omni], given: EvalSet, *, sentences: int = 24, rounds: int = 3) -> list[Cost]:
    """All presets on the codes and the noise of the same sentences.

    Args:
        models: of the same weights, one for each name of `PRESETS`.
        rounds: of which the fastest is told.
    """
    faithful = models["faithful"]
    timer = Timer(next(faithful.model.parameters()).device)
    texts = [case.say or case.turns[-1].answer for case in given.cases][:sentences]
    said, recogniser = say(faithful, texts), Recogniser(given.sentences)
    costs: list[Cost] = []
    truth, understood = torch.empty(0), 0.0
    for name in PRESETS:
        mels, waves, flow, total = min((_make(models[name], said, timer) for _ in range(rounds)), key=lambda made: made[3])
        words = _understood(recogniser, waves, said, faithful.sample_rate)
        if not costs:
            truth, understood = torch.cat(mels), words
        error, seconds = torch.cat(mels) - truth, sum(map(len, waves)) / faithful.sample_rate
        rmse, worst = float(error.square().mean().sqrt()), float(error.abs().max())
        evaluations = PRESETS[name].solver.num_evaluations
        costs.append(Cost(name, evaluations, flow / seconds, total / seconds, rmse, worst, words, understood - words))
    return costs


def _make(omni: Omni, sentences: Sequence[Sentence], timer: Timer) -> tuple[list[Tensor], list[Tensor], float, float]:
    """Log-mel frames and waves of all sentences; seconds for the frames, and for both."""
    vocoder = omni.model.token2wav
    assert vocoder
    voices = {name: vocoder.prepare(voice) for name, voice in omni.voices.items()}
    mels: list[Tensor] = []
    waves: list[Tensor] = []
    flow = total = 0.0
    for seed, sentence in enumerate(sentences):
        state = vocoder.start(voices[sentence.voice], seed=seed, chunks=WHOLE)
        for frame in (*sentence.frames, None):
            vocoder.push(state, frame)
        first = timer.once(_each(mels, vocoder.mels, [state]))
        second = timer.once(_each(waves, vocoder.waves, [state], mels[-1:]))
        flow, total = flow + first, total + first + second
    return mels, waves, flow, total


def _each(kept: list[Tensor], run: Callable[..., list[Tensor]], *args: object) -> Callable[[], None]:
    return lambda: kept.extend(run(*args))


def _understood(recogniser: Recogniser, waves: Sequence[Tensor], sentences: Sequence[Sentence], sample_rate: int) -> float:
    """Words in a hundred."""
    right = total = 0
    for wave, sentence in zip(waves, sentences, strict=True):
        words = words_of(sentence.text)
        right += len(words) - edits(words, recogniser.hear((wave.cpu().numpy(), sample_rate)))
        total += len(words)
    return 100 * right / total


def show(costs: Sequence[Cost], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("preset")
    for name in ("evaluations", "flow", "and wave", "rmse", "worst", "understood"):
        table.add_column(name, justify="right")
    for c in costs:
        figures = (f"{c.flow:.3f}", f"{c.total:.3f}", f"{c.rmse:.4f}", f"{c.worst:.3f}", f"{c.words:.1f} %")
        table.add_row(c.name, str(c.evaluations), *figures)
    console.print(table)
    console.print("seconds of work for a second of sound; errors of log-mel values against the faithful preset", style="dim")
