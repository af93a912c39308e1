"""What the load bench makes of answers, and both benches on the small model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omni import Omni
from omni.bench import load, presets, turns
from omni.bench.load import Figures, gain, missed
from omni.bench.turns import Waits
from omni.cli.app import app
from omni.errors import VoiceError

GOOD = Figures("first sound first", 1, 8, 0, 300.0, 300.0, 400.0, 900.0, 0.5, 0.0, 1.0, 16.0, 0.4, 0.2)


def test_marks() -> None:
    fifo = replace(GOOD, policy="fifo")
    many = replace(GOOD, sessions=8, audio_throughput=1.2)
    figures = [GOOD, fifo, many, replace(fifo, sessions=8, audio_throughput=1.1, p99_audio_ttfp_ms=500.0)]
    assert gain(figures) == pytest.approx(3)
    assert missed(figures) == []
    slow = [*figures[:2], replace(many, audio_throughput=0.8, p99_audio_ttfp_ms=600.0, failed=2), figures[3]]
    assert [fault.split()[0] for fault in missed(slow)] == ["2", "the", "first"]
    grown, same, odd = (0.4, 0.47), (0.4, 0.41), (0.4, 4.0)
    assert Waits((same, odd, same), (same,), (0.1, 0.4)).missed == []
    assert len(Waits((grown, grown, same), (grown,), (0.1, 0.4)).missed) == 2
    assert len(Waits((same,), (same,), (0.3, 1.1)).missed) == len(Waits((same,), (same,), (0.1, 0.6)).missed) == 1


def test_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "PAUSE", 0.05)
    out = tmp_path / "load.json"
    done = CliRunner().invoke(app, ["bench", "load", "--sessions", "1,2", "--questions", "1", "--json", str(out)])
    assert done.exit_code == 0, done.output
    tree = json.loads(out.read_text())
    assert [(f["policy"], f["sessions"], f["requests"]) for f in tree["figures"]] == [
        (policy, count, count) for count in (1, 2) for policy in load.POLICIES
    ]
    for figures in tree["figures"]:
        assert figures["failed"] == 0
        assert 0 < figures["median_audio_ttfp_ms"] <= figures["p99_audio_ttfp_ms"] <= figures["mean_e2el_ms"] * 2
        assert figures["audio_duration_s"] > 0.3
    assert "smooth" in done.output


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURNS", 2)
    monkeypatch.setattr(turns, "LIVE_SHORT", 8.0)
    monkeypatch.setattr(turns, "LIVE_LONG", 32.0)
    done = CliRunner().invoke(app, ["bench", "turns", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    assert "of 20 s" in done.output
    assert "s for 32 s" in " ".join(done.output.split())


def test_a_model_without_a_voice_is_refused() -> None:
    omni = Omni.load(speech=False, progress=False)
    with pytest.raises(VoiceError, match="loaded without speech"):
        load.measure(omni, [1])
    with pytest.raises(VoiceError, match="loaded without speech"):
        presets.say(omni, ["One."])


def test_sessions_that_are_no_numbers() -> None:
    done = CliRunner().invoke(app, ["bench", "load", "--sessions", "many"])
    assert done.exit_code == 2
    assert "1,2,4,8" in done.output
