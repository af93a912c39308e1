"""How a checkpoint writes down what it hears: `transcription.json`, which the published ones do without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omni.loading.json import Node, damage_told, read_json

FILE = "transcription.json"
MOST_SECONDS = 3600.0
"""Longer pieces or silences are no numbers that a checkpoint could mean."""


@dataclass(frozen=True)
class Dictation:
    """How a checkpoint writes down what it hears, where the caller says nothing.

    Attributes:
        instruction: what it is told behind the sound.
        longest: seconds of speech that it writes down well at once.
        silence: seconds without a voice between two things that it hears apart.
    """

    instruction: str = "Transcribe the audio."
    longest: float = 30.0
    silence: float = 1.0


def read_dictation(folder: Path) -> Dictation:
    """What the file in a folder says, the way of large models where there is none; or CheckpointError."""
    path = folder / FILE
    if not path.exists():
        return Dictation()
    node = Node(read_json(path), FILE)
    with damage_told(FILE):
        made = Dictation(str(node.instruction), float(node.longest), float(node.silence))
        if not (0 < made.longest < MOST_SECONDS and 0 <= made.silence < MOST_SECONDS):
            raise ValueError(f"longest {made.longest}, silence {made.silence}, in seconds")
    return made
