"""The demos run on the model that ships with the package, which understands and answers what they ask."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
from PIL import Image

from demos import listen, narrate, see, tour
from demos.media.make import CLIP, SCENE, SPOKEN
from demos.small_model.world import draw, questions
from demos.what_happened import Exchange

ROOT = Path(__file__).parents[2]
MEDIA = ROOT / "demos" / "media"


@pytest.fixture(autouse=True)
def _bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNI_MODEL", raising=False)


def test_media_are_of_the_small_world() -> None:
    with Image.open(MEDIA / "scene.png") as image:
        assert np.array_equal(np.asarray(image), draw.picture(SCENE))
    rngs = [Random(seed) for seed in range(50)]
    dialogues = [questions.scene_dialogue(SCENE, rng) for rng in rngs]
    assert [SPOKEN["where"], SPOKEN["follow_up"]] in dialogues
    asked = [turn for rng in rngs for turn in questions.scene_turns(SCENE, rng, 12) + questions.clip_turns(CLIP, rng, 9)]
    assert {SPOKEN["how_many"], SPOKEN["what_moves"], SPOKEN["when"]} <= set(asked)


def test_tour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tour.main(out=tmp_path)
    told = capsys.readouterr().out
    for name in ("where", "follow_up", "what_moves", "when"):
        assert f"heard   {SPOKEN[name].question}\nanswer  {SPOKEN[name].answer}\n" in told
    assert told.count("first sound after") == 4
    sound = soundfile.info(tmp_path / "conversation.wav")
    assert sound.samplerate == 24000 and sound.duration > 8
    with Image.open(tmp_path / "what_happened.png") as drawn:
        assert drawn.width == 1430 and len(np.unique(np.asarray(drawn.convert("L")))) > 50


def test_see(capsys: pytest.CaptureFixture[str]) -> None:
    see.main()
    told = capsys.readouterr().out
    assert "\n  A green heart.\n" in told and "\n  It moves right.\n" in told


def test_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen.main(out=tmp_path / "answer.wav")
    assert "\n  There are two red circles.\n" in capsys.readouterr().out
    assert 1 < soundfile.info(tmp_path / "answer.wav").duration < 4


def test_narrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrate.main(out=tmp_path / "story.wav")
    assert "first sound after" in capsys.readouterr().out
    assert 3 < soundfile.info(tmp_path / "story.wav").duration < 10


def test_played() -> None:
    """A chunk that comes early waits for the one before, one that comes late is late."""
    second = np.zeros(100, np.float32)
    e = Exchange(MEDIA, second, 100, "", 100, chunks=[(0.5, second), (0.7, second), (4.0, second)])
    assert [start for start, _ in e.played()] == [0.5, 1.5, 4.0]
    assert e.end == 5.0
    room = tour.recording([e], 100)
    assert len(room) == 100 + 500 + round(100 * tour.PAUSE)
