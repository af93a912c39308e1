"""The command line, as a user types it."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from typer.testing import CliRunner

from omni import Omni
from omni.bench import load
from omni.cli import main
from omni.cli.app import app
from omni.cli.ask import _follow
from omni.events import Event, TextDelta
from omni.streaming.client import headset
from tests.oracle.make_tiny_text import make
from tests.oracle.tiny import tiny

MEDIA = Path(__file__).parents[3] / "demos" / "media"
MODEL = ["--model", str(tiny("7b-like"))]
run = CliRunner().invoke


def test_ask_prints_the_text_as_it_comes() -> None:
    done = run(app, ["ask", *MODEL, "--max-tokens", "5", "Hello"])
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("\n")
    assert "first text after" in done.stderr


def test_text_is_printed_while_it_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    omni = Omni.load(tiny("7b-like"), speech=False, progress=False)
    printed: list[str] = []

    def watched() -> Iterator[Event]:
        for event in omni.stream([{"role": "user", "content": "Hello"}], max_tokens=12):
            yield event
            if isinstance(event, TextDelta):
                printed.append(capsys.readouterr().out)
                assert printed[-1] == event.text

    _follow(omni, watched(), None, as_json=False, play=False)
    assert len(printed) > 1


@pytest.mark.parametrize(("args", "ends"), [([], "\n"), (["-"], "\r\n"), ([], "")])
def test_ask_reads_standard_input(args: list[str], ends: str) -> None:
    options = ["ask", *MODEL, "--max-tokens", "6", "--json"]
    piped, given = run(app, [*options, *args], input=f"Hello\n there{ends}"), run(app, [*options, "Hello\n there"])
    assert piped.exit_code == given.exit_code == 0, piped.output
    told, as_argument = json.loads(piped.stdout), json.loads(given.stdout)
    assert told["text"] == as_argument["text"] and told["usage"] == as_argument["usage"]


def test_ask_about_media_leaves_standard_input_alone_unless_told() -> None:
    options = ["ask", *MODEL, "--audio", str(MEDIA / "question.wav"), "--max-tokens", "2", "--json"]
    alone, both = (json.loads(run(app, [*options, *args], input="Hello").stdout) for args in ([], ["-"]))
    assert both["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"] + len("Hello")


def test_a_model_without_a_voice_says_so(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("7b-like"), tmp_path / "mute")
    config = json.loads((folder / "config.json").read_text()) | {"enable_audio_output": False}
    (folder / "config.json").write_text(json.dumps(config))
    done = run(app, ["ask", "--model", str(folder), "--speak", str(tmp_path / "answer.wav"), "Hello"])
    assert done.exit_code == 2
    assert "without speech" in " ".join(done.output.split())
    assert not (tmp_path / "answer.wav").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["ask", "--image", str(MEDIA / "scene.png"), "What?"], "does not see; leave pictures"),
        (["ask", "--audio", str(MEDIA / "where.ogg")], "does not hear; leave sound out"),
        (["ask", "--video", str(MEDIA / "clip.mp4"), "What?"], "does not see; leave pictures"),
        (["ask", "--speak", "a.wav", "Hello"], "does not speak: it has no voice"),
        (["say", "Hello", "-o", "a.wav"], "does not speak: it has no voice"),
        (["voices"], "does not speak, so it has no voices"),
        (["voices", "--convert"], "does not speak, so it has no voices"),
        (["eval", "--rows", "sees"], "'sees' cannot be asked of this model"),
        (["bench", "latency"], "take one that speaks"),
        (["bench", "load", "--sessions", "1,2"], "does not speak: it has no voice"),
        (["bench", "turns"], "does not speak: it has no voice"),
        (["bench", "presets"], "does not speak: it has no voice"),
    ],
)  # fmt: skip
def test_what_a_text_model_is_not_for(
    command: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that says what to do, and no file."""
    monkeypatch.setattr(load, "PAUSE", 0.01)
    folder = make("qwen3", tmp_path / "text")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = run(app, [*command, "--model", str(folder)])
    told = " ".join(done.output.split())
    assert done.exit_code in (1, 2) and done.exception.__class__ is SystemExit, told
    assert told.startswith("error:") and told.count("error:") == 1 and says in told
    assert not [*(tmp_path / "here").iterdir()]


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


def test_say_tells_what_it_left_out(tmp_path: Path) -> None:
    options = ["say", "Yes, an elephant.", "-o", str(tmp_path / "words.wav"), "--seed", "1", "--voice", "Ethan"]
    done = run(app, options)
    assert done.exit_code == 0 and "warning: left out" in " ".join(done.stderr.split()), done.output
    assert done.stdout == "Yes, an elephant.\n"
    assert "elephant" in json.loads(run(app, [*options, "--json"]).stdout)["warnings"][0]
    refused = run(app, [*options, "--strict"])
    assert refused.exit_code == 2 and "elephant" in refused.stderr


def test_a_refused_text_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "keep.wav"
    out.write_bytes(b"kept")
    for text, given in (("...", None), ("-", "\n...\n")):
        done = run(app, ["say", *MODEL, text, "-o", str(out)], input=given)
        assert done.exit_code == 2, done.output
        assert out.read_bytes() == b"kept"


@pytest.mark.parametrize("args", [["say", *MODEL, "-", "-o", "words.wav"], ["ask", *MODEL]])
def test_what_is_no_text_is_refused(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(app, args, input=b"\xff\xfe words")
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
        (["ask", *MODEL, ""], 2, "give a question"),
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
        "import sys; from omni.cli.app import app; app(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "omni ask --model Qwen/Qwen2.5-Omni-3B --image cat.jpg" in done.stdout


@pytest.mark.parametrize(
    "command",
    ["", "ask", "say", "transcribe", "voices", "doctor", "serve", "chat", "eval", "bench", "bench stages", "bench load"],
)
def test_help_is_for_people(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    short, long = (run(app, [*command.split(), flag]) for flag in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert not [
        word
        for word in ("Literal", "<str>", "<bool>", "<int", "<path>", "<list", "class", "INTEGER")
        if word in short.output
    ]
    if command == "":
        assert "--install-completion" in short.output


def test_no_arguments_print_help() -> None:
    done = run(app, [])
    assert done.exit_code == 2 and "Commands" in done.output


def test_a_taken_port_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni.cli.serve.loaded", lambda *_, **__: pytest.fail("a model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "Address already in use; choose another with --port" in done.stderr


def test_the_server_is_warm_before_it_takes_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()

    class Cold:
        def warm_up(self) -> None:
            time.sleep(0.2)
            done.append("warm")

    monkeypatch.setattr("omni.cli.serve.loaded", lambda *_, **__: Cold())
    monkeypatch.setattr("omni.streaming.server.hub.Hub", lambda *_, **__: None)
    monkeypatch.setattr("omni.streaming.serve.run", lambda *_: done.append("serves"))
    assert run(app, ["serve", "--port", "0", "--threads", str(torch.get_num_threads())]).exit_code == 0
    assert done == ["warm", "serves"]


def test_sound_goes_to_standard_output() -> None:
    told = run(app, ["ask", *MODEL, "--max-tokens", "4", "--max-audio-seconds", "0.5", "--speak", "-", "Hello"])
    assert told.exit_code == 0, told.stderr
    wave, rate = soundfile.read(io.BytesIO(told.stdout_bytes))
    assert (len(wave), rate) == (12000, 24000)
    assert "first sound after" in told.stderr and " in -" not in told.stderr
    assert run(app, ["ask", *MODEL, "--speak", "-", "--json", "Hello"]).exit_code == 2


def test_playing_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headset, "sounddevice", None)
    commands = [
        ["ask", *MODEL, "--play", "Hello"],
        ["say", *MODEL, "--play", "Hello"],
        ["chat", "--play", "--url", "127.0.0.1:1"],
    ]
    for command in commands:
        told = run(app, command)
        assert told.exit_code == 2 and "omni-runtime[voice]" in " ".join(told.output.split())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(130)])
def test_ctrl_c_ends_with_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    def interrupted() -> None:
        raise error

    monkeypatch.setattr("omni.cli.app.app", interrupted)
    monkeypatch.setattr("os._exit", codes.append)
    main.main()
    assert (codes, capsys.readouterr().err.split()) == ([130], ["stopped"])
