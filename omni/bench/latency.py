"""The whole chain, from a question to its spoken answer: when text and sound come, ours and by transformers' `generate`.

Both get the same prompt, with media read already, and choose greedily, so that the answers are the same. A request is sent
when our prompt is handed to the engine, and when `generate` is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from omni.api import Omni
from omni.bench import baseline
from omni.bench.marks import mark
from omni.bench.report import Report, Row, hardware
from omni.bench.timing import Pairs
from omni.engine.options import Options
from omni.engine.request import Request
from omni.engine.scheduler import Costs, Kind
from omni.errors import EvaluationError
from omni.evaluation.evaluate import read_set
from omni.events import AudioChunk, Done, TextDelta
from omni.kernels.sampling import Sampling
from omni.prompt.prompt import Prompt
from omni.prompt.reader import Message

GREEDY = Sampling(repetition_penalty=1.05)
"""Of codec ids; the penalty that transformers has as well."""
ENOUGH = 0.2
"""Seconds of sound that a listener must have before an answer counts as begun: a packet of 10 ms is no win."""
STAGES: Mapping[Kind, str] = {
    Kind.ENCODE: "towers",
    Kind.PREFILL: "thinker, prompt",
    Kind.DECODE: "thinker, answer",
    Kind.TALKER_PREFILL: "talker",  # it may read a prompt's end in the step of its first code
    Kind.TALKER_DECODE: "talker",
    Kind.VOCODE: "vocoder",
}


@dataclass
class Answer:
    """When what came, in seconds after the request was sent.

    Attributes:
        texts: of each piece of text.
        sounds: of each piece of sound, and seconds of it.
        busy: seconds of each stage.
        ids, codes: how many of them there were.
    """

    texts: list[float] = field(default_factory=list)
    sounds: list[tuple[float, float]] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES.values(), 0.0))
    ids: int = 0
    codes: int = 0
    total: float = 0.0

    @property
    def audio(self) -> float:
        return sum(seconds for _, seconds in self.sounds)

    @property
    def ttft(self) -> float:
        return self.texts[0]

    @property
    def tpot(self) -> float:
        """Seconds from one token to the next."""
        return (self.texts[-1] - self.texts[0]) / max(1, self.ids - 1)

    @property
    def ttfp(self) -> float:
        return self.sounds[0][0]

    @property
    def ttfp_enough(self) -> float:
        """When so much sound had come, or all of it."""
        heard = 0.0
        for when, seconds in self.sounds:
            heard += seconds
            if heard >= ENOUGH:
                return when
        return self.sounds[-1][0]

    @property
    def rtf(self) -> float:
        """Time until the last sound, over seconds of sound."""
        return self.sounds[-1][0] / self.audio


FIGURES: Mapping[str, Callable[[Answer], float]] = {
    "first text (TTFT)": lambda a: a.ttft,
    "from token to token (TPOT)": lambda a: a.tpot,
    "first sound (TTFP)": lambda a: a.ttfp,
    f"{1000 * ENOUGH:.0f} ms of sound (TTFP@{1000 * ENOUGH:.0f})": lambda a: a.ttfp_enough,
    "all of it": lambda a: a.total,
}


@dataclass(frozen=True)
class Question:
    """Attributes:
    what: is asked, for the table.
    """

    what: str
    messages: list[Message]


def questions(count: int) -> list[Question]:
    """Of the packaged set, each asked aloud about a picture."""
    found = []
    for case in read_set(None, ["converses"]).cases:
        parts = case.turns[0].content
        if [part["type"] for part in parts] == ["image", "audio"]:
            found.append(Question(case.turns[0].asked, [{"role": "user", "content": parts}]))
    if not found:
        raise EvaluationError("the evaluation set has no question that is asked aloud about a picture; make it again")
    return found[:count]


@dataclass(frozen=True)
class Limits:
    """Attributes:
    ids, codes: the most of them in an answer.
    """

    ids: int
    codes: int

    @classmethod
    def of(cls, max_tokens: int, max_seconds: float, frames_per_second: float) -> Limits:
        return cls(max_tokens, round(max_seconds * frames_per_second))


def measure(
    omni: Omni,
    folder: Path,
    asked: Sequence[Question],
    limits: Limits,
    *,
    rounds: int = 2,
    notes: Console | None = None,
) -> Report:
    """Rounds of ours, theirs, theirs, ours for each question, after one of each to warm up.

    folder: of the checkpoint that `omni` was loaded from.
    """
    device = omni.engine.device
    dtype = omni.runtime.think.runner.cache.store.keys.dtype
    ref = baseline.load(folder, dtype, device) if baseline.INSTALLED else None
    ours, theirs, differ = list[tuple[Answer, Answer]](), list[tuple[Answer, Answer]](), 0
    for question in asked:
        prompt = _request(omni, question.messages, limits).prompt
        warm = [ask_ours(omni, question.messages, limits)]
        if ref:
            warm.append(ask_theirs(ref, prompt, limits, omni))
            differ += (warm[0].ids, warm[0].codes) != (warm[1].ids, warm[1].codes)
        for _ in range(rounds):
            first = ask_ours(omni, question.messages, limits)
            if ref:
                theirs.append((ask_theirs(ref, prompt, limits, omni), ask_theirs(ref, prompt, limits, omni)))
            ours.append((first, ask_ours(omni, question.messages, limits)))
        if notes:
            notes.print(f"{question.what}: {ours[-1][0].audio:.1f} s of sound", style="dim", highlight=False)
    told = f"{len(asked)} questions, {str(dtype).removeprefix('torch.')}"
    rows = [
        Row.of(name, told, _pairs(ours, theirs, figure), mark=mark(hardware(device), folder.name, name))
        for name, figure in FIGURES.items()
    ]
    rows.append(_plain("real-time factor (RTF)", told, _pairs(ours, theirs, lambda a: a.rtf), "s/s"))
    for stage in dict.fromkeys(STAGES.values()):
        rows.append(Row.of(f"busy: {stage}", told, _pairs(ours, theirs, partial(_busy, stage))))
    remarks = [
        "ours streams; transformers' sound comes when all is done. Media are read beforehand on both sides, and neither has "
        "seen the prompt before; busy: seconds that a stage worked.",
        f"seconds of sound: {median(a.audio for pair in ours for a in pair):.2f} in the median",
    ]
    if not ref:
        remarks.append("transformers is not installed, so its column is left out: pip install transformers")
    elif differ:
        remarks.append(f"{differ} of {len(asked)} answers differed in length")
    settings = {
        "weights": folder.name,
        "rounds": rounds,
        "max_tokens": limits.ids,
        "max_codes": limits.codes,
        "dtype": str(dtype),
    }
    return Report("latency", device, settings, rows, None, remarks)


def _busy(stage: str, answer: Answer) -> float:
    return answer.busy[stage]


def _pairs(
    ours: Sequence[tuple[Answer, Answer]], theirs: Sequence[tuple[Answer, Answer]], figure: Callable[[Answer], float]
) -> Pairs:
    tiny = 1e-9  # a stage that had nothing to do
    a, b = (tuple((figure(x) or tiny, figure(y) or tiny) for x, y in some) for some in (ours, theirs))
    return Pairs(a, b)


def _plain(name: str, setting: str, pairs: Pairs, unit: str) -> Row:
    """A row whose figures are no times."""
    row = Row.of(name, setting, pairs)
    theirs = None if row.theirs is None else row.theirs / 1000
    return Row(name, setting, row.ours / 1000, unit, theirs, row.ratio, row.low, row.high, row.noise)


def frames_per_second(omni: Omni) -> float:
    """Of the model's voice; EvaluationError where it has none."""
    if omni.runtime.speak is None:
        raise EvaluationError("a spoken answer is timed, and this model was loaded without speech; take one that speaks")
    return omni.runtime.speak.vocoder.frames_per_second


def _request(omni: Omni, messages: list[Message], limits: Limits) -> Request:
    seconds = limits.codes / frames_per_second(omni)
    options = Options(max_tokens=limits.ids, max_audio_seconds=seconds, temperature=0.0, voice_sampling=GREEDY, seed=0)
    return omni.runtime.request(messages, omni.default_voice, options)


class _Watched(Costs):
    """Costs that keep what each kind of step took."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def saw(self, kind: Kind, num_requests: int, rows: int, seconds: float) -> None:
        super().saw(kind, num_requests, rows, seconds)
        self._answer.busy[STAGES[kind]] += seconds


def ask_ours(omni: Omni, messages: list[Message], limits: Limits) -> Answer:
    """An answer by the engine, which has never seen its prompt."""
    answer, request, engine = Answer(), _request(omni, messages, limits), omni.engine
    for stage in engine.stages:
        engine.call(stage.runner.cache.blocks.forget)
    engine.call(omni.runtime.think.features.forget)
    kept, engine.costs = engine.costs, _Watched(answer)
    start = time.perf_counter()
    try:
        for event in omni.runtime.run(request):
            now = time.perf_counter() - start
            match event:
                case TextDelta():
                    answer.texts.append(now)
                case AudioChunk():
                    answer.sounds.append((now, len(event.samples) / event.sample_rate))
                case Done():
                    answer.ids, answer.codes = len(event.token_ids), len(event.codes)
                    answer.total = now
    finally:
        engine.costs = kept
    return _sounding(answer)


def ask_theirs(ref: Any, prompt: Prompt, limits: Limits, omni: Omni) -> Answer:
    """An answer by `generate`, with the times at which its modules had done their work."""
    answer, device = Answer(), omni.engine.device
    args = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in baseline.arguments(prompt).items()}
    start = time.perf_counter()
    with _watched(ref, answer, start):
        # it does not speak the last id of a text that a limit has cut, so its limit is one more than ours
        ids, wave = ref.generate(
            **args,
            speaker=omni.default_voice,
            thinker_max_new_tokens=limits.ids + 1,
            talker_max_new_tokens=limits.codes,
            thinker_do_sample=False,
            talker_do_sample=False,
        )
    answer.total = time.perf_counter() - start
    answer.sounds.append((answer.total, len(wave) / omni.sample_rate))
    answer.ids = min(limits.ids, ids.shape[1] - prompt.num_tokens - 1)
    answer.texts = answer.texts[: answer.ids]
    answer.codes = round(answer.audio * frames_per_second(omni))
    return _sounding(answer)


def _sounding(answer: Answer) -> Answer:
    if not answer.texts or not answer.audio:
        raise EvaluationError("the answer had no text or no sound, so nothing could be timed; take another checkpoint")
    return answer


@contextmanager
def _watched(ref: Any, answer: Answer, start: float) -> Iterator[None]:
    began = dict[nn.Module, float]()
    thinker, talker, wave = ref.thinker, ref.talker, ref.token2wav

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        began[module] = time.perf_counter()

    def end(of: Callable[[Any], Kind | None]) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if kind := of(kwargs):
                answer.busy[STAGES[kind]] += time.perf_counter() - began[module]

        return hook

    stages = [
        (thinker.audio_tower, lambda _: Kind.ENCODE),
        (thinker.visual, lambda _: Kind.ENCODE),
        (thinker.model, lambda kwargs: Kind.PREFILL if kwargs["inputs_embeds"].shape[1] > 1 else None),
        (wave, lambda _: Kind.VOCODE),
    ]
    hooks = [module.register_forward_pre_hook(begin, with_kwargs=True) for module, _ in stages]
    hooks += [module.register_forward_hook(end(of), with_kwargs=True) for module, of in stages]
    hooks.append(thinker.lm_head.register_forward_hook(lambda *_: answer.texts.append(time.perf_counter() - start)))
    generates = thinker.generate, talker.generate
    thinker.generate, talker.generate = (
        _timed(answer, *each) for each in zip((Kind.DECODE, Kind.TALKER_DECODE), generates, strict=True)
    )
    try:
        yield
        # what is left of the thinker's time, with choosing ids, is the answer's
        answer.busy[STAGES[Kind.DECODE]] -= answer.busy[STAGES[Kind.ENCODE]] + answer.busy[STAGES[Kind.PREFILL]]
    finally:
        thinker.generate, talker.generate = generates
        for hook in hooks:
            hook.remove()


def _timed(answer: Answer, kind: Kind, generate: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = generate(*args, **kwargs)
        answer.busy[STAGES[kind]] += time.perf_counter() - start
        return out

    return timed
