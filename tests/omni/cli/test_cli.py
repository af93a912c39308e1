"""The command line, as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner

from omni.cli.main import app
from tests.oracle.tiny import tiny

MEDIA = Path(__file__).parents[3] / "demos" / "media"
MODEL = ["--model", str(tiny("7b-like"))]
run = CliRunner().invoke


def test_ask_prints_the_text_as_it_comes() -> None:
    done = run(app, ["ask", *MODEL, "--max-tokens", "5", "Hello"])
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("\n")
    assert "first text after" in done.stderr


def test_ask_about_everything_aloud(tmp_path: Path) -> None:
    out = tmp_path / "answer.flac"
    done = run(
        app,
        [
            "ask",
            *MODEL,
            "--image",
            str(MEDIA / "cat.jpg"),
            "--audio",
            str(MEDIA / "question.wav"),
            "--video",
            str(MEDIA / "ball.mp4"),
            "--speak",
            str(out),
            "--max-tokens",
            "4",
            "--max-audio-seconds",
            "0.5",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["limits"] == ["text", "audio"]
    assert min(told["usage"][f"{kind}_tokens"] for kind in ("image", "audio", "video", "text", "codec")) > 0
    wave, rate = soundfile.read(out)
    assert (len(wave), rate) == (12000, 24000)
    assert told["timings"]["real_time_factor"] == told["timings"]["total"] / told["timings"]["audio"]
    assert told["timings"]["first_audio"] <= told["timings"]["total"]


def asked(*options: str) -> dict[str, Any]:
    done = run(app, ["ask", *MODEL, "--json", "--max-tokens", "6", *options, "Hello"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_ask_heeds_its_options() -> None:
    greedy, warm = asked("--seed", "7"), asked("--seed", "7", "--temperature", "1.5")
    assert greedy["usage"]["text_tokens"] == 6
    assert greedy["limits"] == ["text"]
    assert (greedy["seed"], warm["seed"]) == (7, 7)
    assert greedy["text"] != warm["text"] == asked("--seed", "7", "--temperature", "1.5")["text"]


def test_voice_and_instruction_shape_the_sound(tmp_path: Path) -> None:
    def said(*options: str) -> bytes:
        out = tmp_path / "words.wav"
        done = run(app, ["say", *MODEL, "Hi.", "-o", str(out), "--seed", "3", "--max-audio-seconds", "0.3", *options])
        assert done.exit_code == 0, done.output
        return out.read_bytes()

    plain = said()
    assert plain == said("--voice", "Chelsie")
    assert plain != said("--voice", "Ethan")
    assert plain != said("--instruction", "Whisper.")

    def spoken(voice: str) -> bytes:
        out = tmp_path / "answer.wav"
        asked("--speak", str(out), "--voice", voice, "--seed", "3", "--max-audio-seconds", "0.3")
        return out.read_bytes()

    assert spoken("Ethan") != spoken("Chelsie")


def test_say_into_a_file(tmp_path: Path) -> None:
    out = tmp_path / "words.wav"
    done = run(app, ["say", *MODEL, "Hello there.", "-o", str(out), "--voice", "Ethan", "--max-audio-seconds", "0.6"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "Hello there.\n"
    assert soundfile.info(out).frames == 14400


def test_say_from_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "words.wav"
    options = ["say", *MODEL, "-", "-o", str(out), "--max-audio-seconds", "0.6", "--instruction", "Slowly."]
    done = run(app, options, input="Two\nlines\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Two\nlines\n")


def test_a_refused_text_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "keep.wav"
    out.write_bytes(b"kept")
    for text, given in (("x" * 40000, None), ("-", "y " * 40000)):
        done = run(app, ["say", *MODEL, text, "-o", str(out)], input=given)
        assert done.exit_code == 2, done.output
        assert out.read_bytes() == b"kept"


def test_say_refuses_what_is_no_text(tmp_path: Path) -> None:
    done = run(app, ["say", *MODEL, "-", "-o", str(tmp_path / "words.wav")], input=b"\xff\xfe words")
    assert done.exit_code == 2
    assert "UTF-8" in done.output


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["ask", *MODEL, "--image", "nowhere.jpg", "?"], 2, "nowhere.jpg"),
        (["say", *MODEL, "Hi.", "-o", "x.wav", "--voice", "Nobody"], 2, "Chelsie, Ethan"),
        (["say", *MODEL, "Hi.", "-o", "x.unknown"], 2, "name a .wav"),
        (["ask", "--model", "nobody/nothing-at-all", "?"], 1, "nobody/nothing-at-all"),
        (["ask", *MODEL, "--device", "gpu", "?"], 1, "no device"),
        (["ask", *MODEL], 2, "give a question"),
        (["ask", *MODEL, "--voice", "Ethan", "Hi."], 2, "give --speak"),
        (["say", *MODEL, "Hi.", "-o", "nowhere/x.wav"], 2, "is no folder"),
        (["ask", *MODEL, "--image", "[/x].jpg", "?"], 2, "[/x].jpg"),
        (["doctor", "--model", "nobody/nothing-at-all"], 1, "missing"),
    ],
)
def test_errors_are_one_line(args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(app, args)
    assert done.exit_code == code
    assert says in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_voices_are_listed_and_kept_without_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny("7b-like"), folder)
    done = run(app, ["voices", "--model", str(folder), "--convert"])
    assert done.exit_code == 0, done.output
    assert set(done.stdout.split()) == {"Chelsie", "Ethan"}
    (folder / "spk_dict.pt").unlink()
    assert run(app, ["voices", "--model", str(folder)]).stdout.split() == done.stdout.split()


def test_doctor_plans_memory() -> None:
    done = run(app, ["doctor", *MODEL])
    assert done.exit_code == 0, done.output
    for word in (
        "python",
        "torch",
        "device",
        "free",
        "thinker",
        "talker",
        "token2wav",
        "weights in all",
        "nothing is missing",
    ):
        assert word in done.output


def test_help_is_quick_and_has_examples() -> None:
    code = (
        "import sys; from omni.cli.main import app; app(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "omni ask --model Qwen/Qwen2.5-Omni-3B --image cat.jpg" in done.stdout
