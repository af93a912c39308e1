"""Evaluation: figures of a set written by hand, asked of a model that gives fixed answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from omni.api import Omni
from omni.cli.app import app
from omni.errors import EvaluationError
from omni.evaluation import recogniser
from omni.evaluation.evaluate import BUNDLED, EvalSet, Score, evaluate, read_set
from omni.evaluation.recogniser import Recogniser, edits, language_model, words_of
from omni.events import AudioChunk, Done, Event, Reply, TextDelta, Timings, Usage

ROWS = {
    "sees": {"title": "pictures", "metric": "exact", "marks": {"exact": {"at_least": 0.5}}},
    "hears": {
        "title": "speech",
        "metric": "words",
        "marks": {"all words": {"at_least": 0.9}, "clean words": {"at_least": 0.9}},
    },
    "stops": {"title": "ends", "metric": "stops", "marks": {"exact": {"at_least": 0.9}, "ended": {"at_least": 0.9}}},
    "speaks": {
        "title": "answers",
        "metric": "speech",
        "marks": {"recognised": {"at_least": 0.5}, "ceiling": {}, "below ceiling": {"at_most": 0.1}},
    },
    "says": {"title": "words", "metric": "say", "marks": {"recognised": {"at_least": 0.5}, "own ears": {"at_least": 0.5}}},
    "fast": {
        "title": "time",
        "metric": "speed",
        "marks": {"real-time factor": {"at_most": 0.7}, "first sound (s)": {"at_most": 0.6}},
    },
}
ANSWERS = {
    "One?": "It is one.",
    "And two?": "It is two.",
    "Three?": "It is four.",
    "Who?": "I do not know.",
    "Endless?": "I do not know.",
    "Repeat what I said.": "count the red shape",
    "Loud?": "Yes, it is.",
}


def turn(question: str, answer: str, **media: str) -> dict[str, Any]:
    parts = [{"type": kind, kind: path} for kind, path in media.items()]
    return {"content": [*parts, {"type": "text", "text": question}], "answer": answer}


CASES: list[dict[str, Any]] = [
    {"row": "sees", "turns": [turn("One?", "It is one.", image="media/one.png"), turn("And two?", "It is two.")]},
    {"row": "sees", "turns": [turn("Three?", "It is three."), turn("Never asked?", "No.")]},
    {"row": "hears", "turns": [turn("Repeat what I said.", "Count the red shape!", audio="media/a.ogg")]},
    {"row": "hears", "turns": [turn("Repeat what I said.", "Count the red shapes, again.")], "clean": False},
    {"row": "stops", "turns": [turn("Who?", "I do not know.")], "voice": "Ethan"},
    {"row": "stops", "turns": [turn("Endless?", "I do not know.")], "voice": "Ethan"},
    {"row": "speaks", "turns": [turn("Loud?", "Yes, it is.")], "voice": "Chelsie", "ceiling": "media/loud.wav"},
    {"row": "says", "say": "Count the red shape now.", "voice": "Ethan"},
    {"row": "fast", "turns": [turn("Loud?", "Yes, it is.")], "voice": "Ethan"},
]


class Fake:
    """Knows `ANSWERS` by the last question; its speech is one second of silence."""

    sample_rate = 24000

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []

    def generate(self, messages: list[dict[str, Any]], *, voice: str | None = None, **options: object) -> Reply:
        self.asked.append(list(messages))
        question = messages[-1]["content"][-1]["text"]
        done = Done(
            finish_reason="length" if question == "Endless?" else "stop",
            limits=("audio",) if question == "Endless?" else (),
            seed=1,
            usage=Usage(1, 0, 0, 0, 1, 1),
            timings=Timings(0.0, 0.1, 0.1, 0.3, 0.5, 1.0),
            token_ids=(),
            codes=(),
        )
        return Reply(ANSWERS[question], np.zeros(24000, np.float32) if voice else None, self.sample_rate, done)

    def stream(self, messages: list[dict[str, Any]], *, voice: str, **options: object) -> Iterator[Event]:
        yield from self._events(self.generate(messages, voice=voice))

    def say(self, text: str, *, voice: str, **options: object) -> Iterator[Event]:
        yield from self._events(self.generate([{"content": [{"text": "Who?"}]}], voice=voice))

    def _events(self, reply: Reply) -> Iterator[Event]:
        assert reply.audio is not None
        yield TextDelta(reply.text)
        yield AudioChunk(reply.audio, reply.sample_rate, 0)
        yield reply.done


class FakeRecogniser:
    """Hears three words in samples, and four in a file."""

    def __init__(self, sentences: object) -> None: ...

    def hear(self, sound: object) -> list[str]:
        return ["yes", "it", "is"] if isinstance(sound, Path) else ["yes", "it", "was"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "cases.jsonl").write_text("\n".join(json.dumps(case) for case in CASES))
    (tmp_path / "sentences.txt").write_text("Count the red shape.\nYes, it is.\n")
    return tmp_path


def judged(given: EvalSet, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Score], Fake]:
    monkeypatch.setattr("omni.evaluation.evaluate.Recogniser", FakeRecogniser)
    fake = Fake()
    return {each.row.name: each for each in evaluate(cast(Omni, fake), given)}, fake


def test_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, _ = judged(read_set(folder), monkeypatch)
    assert {name: each.figures for name, each in scores.items()} == {
        "sees": {"exact": 0.5},
        "hears": {"all words": 7 / 9, "clean words": 1.0},
        "stops": {"exact": 0.5, "ended": 0.5},
        "speaks": {"recognised": 2 / 3, "ceiling": 1.0, "below ceiling": 1 - 2 / 3},
        "says": {"recognised": 0.0, "own ears": 0.8},
        "fast": {"real-time factor": 0.5, "first sound (s)": 0.3},
    }
    assert [name for name, each in scores.items() if each.passed] == ["sees", "fast"]


def test_a_dialogue_keeps_the_models_own_answers_and_ends_at_the_first_wrong_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fake = judged(read_set(folder, ["sees"]), monkeypatch)
    first, second, third = fake.asked
    assert first[0]["content"][0] == {"type": "image", "image": str(folder / "media/one.png")}
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == "It is one."
    assert third[-1]["content"][-1]["text"] == "Three?"


def test_command_tells_and_fails_on_a_miss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Omni, "load", lambda *_, **__: Fake())
    out = folder / "out.json"
    passed = CliRunner().invoke(app, ["eval", str(folder), "--rows", "sees", "--verbose", "--json", str(out)])
    assert passed.exit_code == 0, passed.output
    assert "50 %" in passed.output and "pass" in passed.output
    assert "Three? | expected: It is three. | got: It is four." in passed.output
    told = json.loads(out.read_text())
    assert told["passed"] and told["rows"]["sees"]["figures"] == {"exact": 0.5}
    assert told["rows"]["sees"]["wrong"] == [{"asked": "Three?", "expected": "It is three.", "got": "It is four."}]
    missed = CliRunner().invoke(app, ["eval", str(folder), "--rows", "sees,hears"])
    assert missed.exit_code == 1, missed.output
    assert "miss" in missed.output


def test_missing_recogniser_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Omni, "load", lambda *_, **__: Fake())
    monkeypatch.setattr(recogniser, "pocketsphinx", None)
    done = CliRunner().invoke(app, ["eval", str(folder)])
    assert done.exit_code == 1
    assert "pip install omni-runtime[eval]" in " ".join(done.output.split())
    assert CliRunner().invoke(app, ["eval", str(folder), "--rows", "sees"]).exit_code == 0


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("rows.json", None, "rows.json is missing"),
        ("rows.json", "[", "damaged"),
        ("rows.json", '{"sees": {"title": "t", "metric": "taste", "marks": {}}}', "taste"),
        ("cases.jsonl", '{"row": "smells"}', "smells"),
        ("cases.jsonl", "", "no case of sees"),
        ("cases.jsonl", '{"row": "sees", "colour": 1}', "colour"),
        ("cases.jsonl", '{"row": "sees", "turns": [{"content": [{"type": "image"}], "answer": ""}]}', "damaged"),
        ("cases.jsonl", '{"row": "says", "say": "Hello."}', "names no voice"),
        ("cases.jsonl", '{"row": "sees"}', "asks nothing"),
    ],
)
def test_a_damaged_set(folder: Path, file: str, text: str | None, says: str) -> None:
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(EvaluationError, match=says):
        read_set(folder)


def test_unknown_row_and_place(folder: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no row smells.*it has sees, hears"):
        read_set(folder, ["smells"])
    done = CliRunner().invoke(app, ["eval", str(folder), "--json", str(folder / "nowhere" / "out.json")])
    assert done.exit_code == 2 and "cannot be written" in " ".join(done.output.split())


def test_the_packaged_set_is_whole_and_small() -> None:
    given = read_set()
    parts = [part for case in given.cases for turn in case.turns for part in turn.content if part["type"] != "text"]
    media = [Path(part[part["type"]]) for part in parts] + [case.ceiling for case in given.cases if case.ceiling]
    assert all(path.is_file() for path in media)
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) < 1_300_000


def test_words_and_edits() -> None:
    assert words_of("Hello, Omni: it's NINE!") == ["hello", "omni", "it's", "nine"]
    assert edits(["a", "b", "c", "d"], ["a", "x", "c"]) == 2
    assert edits([], ["a"]) == edits(["a"], []) == 1


def test_language_model_spends_all_probability() -> None:
    text = language_model(["Count the red shape.", "Count the shapes.", "Red."])
    ones, twos = (part.strip().splitlines()[1:] for part in text.split("\n\n")[1:3])
    flat = {line.split()[1]: 10 ** float(line.split()[0]) for line in ones if "<s>" not in line}
    back = {line.split()[1]: 10 ** float(line.split()[2]) for line in ones if len(line.split()) == 3}
    seen = {tuple(line.split()[1:]): 10 ** float(line.split()[0]) for line in twos}
    assert sum(flat.values()) == pytest.approx(1, abs=1e-3)
    for word, weight in back.items():
        after = [seen.get((word, other), weight * share) for other, share in flat.items()]
        assert sum(after) == pytest.approx(1, abs=1e-3)


def test_recogniser_hears_nothing_in_silence(tmp_path: Path) -> None:
    heard = Recogniser(["Count the red shape."])
    assert heard.hear((np.empty(0, np.float32), 24000)) == []
    soundfile.write(tmp_path / "quiet.wav", np.zeros(8000, np.float32), 16000)
    assert len(heard.hear(tmp_path / "quiet.wav")) <= 1
