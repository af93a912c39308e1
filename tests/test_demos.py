"""The demos run, on real media and a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from demos import tour
from demos.narrate import STORY


def test_tour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tour.main(tmp_path)
    told = capsys.readouterr().out
    assert STORY in told
    assert "picture tokens" in told
    for name in ("answer.wav", "story.wav"):
        sound = soundfile.info(tmp_path / name)
        assert sound.samplerate == 24000
        assert 0 < sound.frames <= 4 * 24000
