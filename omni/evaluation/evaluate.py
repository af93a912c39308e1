"""How well a model does on an evaluation set: figures for each row of questions, against the marks that it should reach.

A set is a folder with `rows.json`, `cases.jsonl`, `sentences.txt` and media; `demos/small_model/make_eval.py` makes one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from omni.api import Omni
from omni.engine.options import OptionArgs
from omni.errors import EvaluationError, InputError
from omni.evaluation.recogniser import Recogniser, edits, words_of
from omni.events import Done, Reply, collect

BUNDLED = Path(__file__).parents[1] / "bundled" / "eval"
"""The small set that ships with the package."""
MAX_TOKENS, MAX_AUDIO_SECONDS, SEED = 64, 20.0, 1
REPEAT = "Repeat what I said."


@dataclass(frozen=True)
class Mark:
    """What a figure should be; no bound where it is only told."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True)
class Row:
    """`metric`: how its cases are judged, one of `METRICS`; `marks`: for each figure."""

    name: str
    title: str
    metric: str
    marks: dict[str, Mark]


@dataclass(frozen=True)
class Turn:
    """`content`: parts of a user's message, with paths; `said`: what is asked aloud in them."""

    content: list[dict[str, Any]]
    answer: str
    said: str = ""

    @property
    def asked(self) -> str:
        return " ".join([*(part["text"] for part in self.content if part["type"] == "text"), self.said]).strip()


@dataclass(frozen=True)
class Case:
    """A dialogue, or a sentence to `say`.

    Attributes:
        voice: speaks the answers; None for text alone.
        clean: without noise.
        ceiling: the same words in a recording that the voice was learnt from.
    """

    row: str
    turns: tuple[Turn, ...] = ()
    say: str = ""
    voice: str | None = None
    clean: bool = True
    ceiling: Path | None = None


@dataclass(frozen=True)
class EvalSet:
    folder: Path
    rows: tuple[Row, ...]
    cases: tuple[Case, ...]
    sentences: tuple[str, ...]

    @property
    def speaks(self) -> bool:
        return any(case.voice for case in self.cases)


@dataclass(frozen=True)
class Outcome:
    """What one case gave.

    Attributes:
        parts: for each figure how much of how much.
        right: nothing is wrong with it.
    """

    asked: str
    expected: str
    answered: str
    right: bool
    parts: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Score:
    """One row's figures, and the seconds that its cases took."""

    row: Row
    figures: dict[str, float]
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(self.row.marks[name].met(value) for name, value in self.figures.items())


def read_set(folder: Path | None = None, rows: Sequence[str] = ()) -> EvalSet:
    """A set from its folder, the packaged one where none is given; only some of its rows if so asked.

    Raises:
        EvaluationError: it is not there, damaged, or has no such row.
    """
    folder = folder or BUNDLED
    try:
        named = json.loads((folder / "rows.json").read_text())
        known = {name: _row(name, tree) for name, tree in named.items()}
        cases = [_case(json.loads(line), folder) for line in (folder / "cases.jsonl").read_text().splitlines()]
        sentences = (folder / "sentences.txt").read_text().splitlines()
    except FileNotFoundError as e:
        raise EvaluationError(
            f"{folder} is no evaluation set ({Path(e.filename).name} is missing); make one with demos.small_model.make_eval"
        ) from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise EvaluationError(f"the evaluation set {folder} is damaged ({type(e).__name__}: {e}); make it again") from e
    if missing := set(rows) - known.keys():
        raise EvaluationError(f"no row {', '.join(sorted(missing))} in {folder}; it has {', '.join(known)}")
    for case in cases:
        if fault := _fault(case, known):
            raise EvaluationError(f"the evaluation set {folder} has a case of {case.row!r} that {fault}; make it again")
    if idle := [name for name in rows or known if name not in {case.row for case in cases}]:
        raise EvaluationError(
            f"the evaluation set {folder} has no case of {', '.join(idle)}; name other rows, or make it again"
        )
    wanted = [known[name] for name in rows or known]
    return EvalSet(folder, tuple(wanted), tuple(c for c in cases if known[c.row] in wanted), tuple(sentences))


def _fault(case: Case, known: dict[str, Row]) -> str:
    if case.row not in known:
        return "rows.json does not have"
    metric = known[case.row].metric
    if metric not in METRICS:
        return f"is judged by {metric!r}, which is unknown"
    if metric in VOICED and not case.voice:
        return "names no voice"
    return "" if (case.say if metric == "say" else case.turns) else "asks nothing"


def _row(name: str, tree: dict[str, Any]) -> Row:
    return Row(name, tree["title"], tree["metric"], {figure: Mark(**bounds) for figure, bounds in tree["marks"].items()})


def _case(tree: dict[str, Any], folder: Path) -> Case:
    """Paths are told relative to the folder."""

    def placed(part: dict[str, str]) -> dict[str, str]:
        kind = part["type"]
        return part if kind == "text" else {"type": kind, kind: str(folder / part[kind])}

    turns = tuple(Turn(**turn | {"content": [placed(part) for part in turn["content"]]}) for turn in tree.pop("turns", ()))
    ceiling = folder / tree.pop("ceiling") if "ceiling" in tree else None
    return Case(turns=turns, ceiling=ceiling, **tree)


def evaluate(omni: Omni, given: EvalSet, done: Callable[[Case], None] = lambda case: None) -> Iterator[Score]:
    """Every row's score in turn; `done` hears of every finished case.

    Raises:
        EvaluationError: the recogniser that a row needs is not installed, or the model does not take what the row asks.
    """
    needed = any(row.metric in RECOGNISED for row in given.rows)
    judge = Judge(omni, Recogniser(given.sentences) if needed else None)
    for row in given.rows:
        cases = [case for case in given.cases if case.row == row.name]
        if row.metric == "speed" and cases:
            METRICS[row.metric](judge, cases[0])  # what is prepared at first use is not timed
        began, outcomes = perf_counter(), []
        for case in cases:
            try:
                outcomes.append(METRICS[row.metric](judge, case))
            except InputError as e:
                raise EvaluationError(
                    f"{row.name!r} cannot be asked of this model ({e}); name other rows, or take another model"
                ) from e
            done(case)
        yield Score(row, _figures(row, outcomes), tuple(outcomes), perf_counter() - began)


def _figures(row: Row, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Medians of seconds, and shares of everything else; those that the row has marks for."""
    figures: dict[str, float] = {}
    for name in {name for outcome in outcomes for name in outcome.parts}:
        parts = [outcome.parts[name] for outcome in outcomes if name in outcome.parts]
        if row.metric == "speed":
            figures[name] = median(part / whole for part, whole in parts)
        else:
            figures[name] = max(0.0, sum(part for part, _ in parts) / sum(whole for _, whole in parts))
    if "ceiling" in figures:
        figures["below ceiling"] = figures["ceiling"] - figures["recognised"]
    if unknown := row.marks.keys() - figures.keys():
        raise EvaluationError(
            f"the cases of {row.name} do not give {', '.join(sorted(unknown))}; make the evaluation set again"
        )
    return {name: figures[name] for name in row.marks}


class Judge:
    """Asks the model and says what was right."""

    def __init__(self, omni: Omni, recogniser: Recogniser | None) -> None:
        self.omni, self._recogniser = omni, recogniser

    def exact(self, case: Case) -> Outcome:
        """Every answer is the expected one; a dialogue ends at its first wrong one."""
        turn, reply = self._talk(case)
        right = reply.text.strip() == turn.answer
        return Outcome(turn.asked, turn.answer, reply.text, right, {"exact": (right, 1)})

    def words(self, case: Case) -> Outcome:
        """Words that were heard."""
        turn, reply = self._talk(case)
        share = _share(turn.answer, words_of(reply.text))
        parts = {"all words": share} | ({"clean words": share} if case.clean else {})
        return Outcome(turn.asked, turn.answer, reply.text, share[0] == share[1], parts)

    def speech(self, case: Case) -> Outcome:
        """Words of a spoken answer that a recogniser understands; one without words counts as the expected one unheard."""
        turn, reply = self._talk(case)
        said = reply.text if words_of(reply.text) else turn.answer
        return self._recognised(case, turn.asked, said, reply, {})

    def say(self, case: Case) -> Outcome:
        """Words of a given sentence that a recogniser understands, and that the model itself hears."""
        events = self.omni.say(case.say, voice=case.voice, max_audio_seconds=MAX_AUDIO_SECONDS, seed=SEED)
        reply = collect(events, self.omni.sample_rate, spoken=True)
        heard: list[str] = []
        if reply.audio is not None and len(reply.audio):
            content = [{"type": "audio", "audio": (reply.audio, reply.sample_rate)}, {"type": "text", "text": REPEAT}]
            heard = words_of(self._ask([{"role": "user", "content": content}], None).text)
        return self._recognised(case, "(say)", case.say, reply, {"own ears": _share(case.say, heard)})

    def stops(self, case: Case) -> Outcome:
        """The expected answer, which ends by itself in text and speech."""
        turn, reply = self._talk(case)
        right, ended = reply.text.strip() == turn.answer, _ended(reply.done)
        parts: dict[str, tuple[float, float]] = {"exact": (right and ended, 1), "ended": (ended, 1)}
        return Outcome(turn.asked, turn.answer, reply.text + _cut(reply.done), right and ended, parts)

    def speed(self, case: Case) -> Outcome:
        """Seconds of work for a second of sound, and until the first sound, while streaming."""
        messages = [{"role": "user", "content": case.turns[0].content}]
        reply = collect(self.omni.stream(messages, voice=case.voice, **LIMITS), self.omni.sample_rate, spoken=True)
        t = reply.timings
        first = t.total if t.first_audio is None else t.first_audio
        parts = {"real-time factor": (t.total, max(t.audio, 0.02)), "first sound (s)": (first, 1)}
        return Outcome(case.turns[0].asked, "", reply.text + _cut(reply.done), _ended(reply.done), parts)

    def _talk(self, case: Case) -> tuple[Turn, Reply]:
        """The last turn, or the first that went wrong, and what the model answered to it; it hears its own answers again."""
        messages: list[dict[str, Any]] = []
        for turn in case.turns:
            messages.append({"role": "user", "content": turn.content})
            reply = self._ask(messages, case.voice)
            if reply.text.strip() != turn.answer:
                break
            messages.append({"role": "assistant", "content": reply.text})
        return turn, reply

    def _ask(self, messages: list[dict[str, Any]], voice: str | None) -> Reply:
        return self.omni.generate(messages, voice=voice, **LIMITS)

    def _recognised(self, case: Case, asked: str, said: str, reply: Reply, more: dict[str, tuple[float, float]]) -> Outcome:
        assert self._recogniser and reply.audio is not None
        heard = self._recogniser.hear((reply.audio, reply.sample_rate))
        parts = {"recognised": _share(said, heard), "ended": (_ended(reply.done), 1)} | more
        if case.ceiling:
            parts["ceiling"] = _share(case.say or case.turns[-1].answer, self._recogniser.hear(case.ceiling))
        right = all(part == whole for name, (part, whole) in parts.items() if name != "ceiling")
        return Outcome(asked, said, " ".join(heard) + _cut(reply.done), right, parts)


LIMITS: OptionArgs = {"max_tokens": MAX_TOKENS, "max_audio_seconds": MAX_AUDIO_SECONDS, "temperature": 0.0, "seed": SEED}
METRICS: dict[str, Callable[[Judge, Case], Outcome]] = {
    "exact": Judge.exact,
    "words": Judge.words,
    "speech": Judge.speech,
    "say": Judge.say,
    "stops": Judge.stops,
    "speed": Judge.speed,
}
RECOGNISED = ("speech", "say")
VOICED = (*RECOGNISED, "speed")


def _share(said: str, heard: Sequence[str]) -> tuple[float, float]:
    """Words that were heard as they were said, of how many."""
    words = words_of(said)
    return len(words) - edits(words, heard), len(words)


def _ended(done: Done) -> bool:
    return done.finish_reason == "stop" and not done.limits


def _cut(done: Done) -> str:
    return f" [cut off by the {' and the '.join(done.limits)} limit]" if done.limits else ""
