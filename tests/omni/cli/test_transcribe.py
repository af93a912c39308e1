"""`omni transcribe`, as a user types it, with the small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from omni.cli.app import app

MEDIA = Path(__file__).parents[3] / "demos" / "media"
SAID = "Where is the green heart?"
run = CliRunner().invoke


def test_text_is_printed() -> None:
    done = run(app, ["transcribe", str(MEDIA / "where.ogg")])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{SAID}\n", "")


@pytest.mark.parametrize("args", [["-o", "a.srt"], ["-o", "a.txt", "--format", "srt"]])
def test_subtitles_go_to_a_file(args: list[str], tmp_path: Path) -> None:
    out = tmp_path / args[1]
    done = run(app, ["transcribe", "-", "-o", str(out), *args[2:]], input=(MEDIA / "where.ogg").read_bytes())
    assert (done.exit_code, done.stdout) == (0, "")
    first, times, text, _ = out.read_text().split("\n", 3)
    assert (first, text) == ("1", SAID) and times.startswith("00:00:00,0") and "--> 00:00:01," in times


def test_json_tells_all(tmp_path: Path) -> None:
    done = run(app, ["transcribe", str(MEDIA / "where.ogg"), "--format", "json", "--words"])
    told = json.loads(done.stdout)
    (segment,) = told["segments"]
    assert told["text"] == segment["text"] == SAID == " ".join(word["text"] for word in segment["words"])
    assert told["warnings"] == [] and segment["limits"] == []


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000, np.float32), 16000)
    done = run(app, ["transcribe", str(silence)])
    assert (done.exit_code, done.stdout) == (0, "\n") and "warning: no voice is heard" in done.stderr
    done = run(app, ["transcribe", str(tmp_path / "none.wav")])
    assert done.exit_code == 2 and "cannot be opened" in done.stderr
    done = run(app, ["transcribe", str(MEDIA / "where.ogg"), "-o", str(tmp_path / "no" / "a.srt")])
    assert done.exit_code == 2 and "is no folder; make it first" in done.stderr
