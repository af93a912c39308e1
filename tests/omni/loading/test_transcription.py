"""How a checkpoint writes down what it hears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni.errors import CheckpointError
from omni.loading.checkpoint import BUNDLED
from omni.loading.transcription import FILE, Dictation, read_dictation


def test_the_bundled_checkpoint_says_how() -> None:
    found = read_dictation(BUNDLED)
    assert found.instruction == "Repeat what I said." and found.longest < 6 and found.silence < 0.3


def test_published_checkpoints_say_nothing(tmp_path: Path) -> None:
    assert read_dictation(tmp_path) == Dictation()


LONG = {"instruction": "Write.", "longest": float("nan"), "silence": 1}


@pytest.mark.parametrize("said", [{}, {"instruction": "Write.", "longest": "much", "silence": 1}, LONG])
def test_a_damaged_file(tmp_path: Path, said: dict[str, object]) -> None:
    (tmp_path / FILE).write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=FILE):
        read_dictation(tmp_path)
