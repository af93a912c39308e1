"""How a checkpoint writes down what it hears: `transcription.json`, which the published ones do without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omni.errors import CheckpointError
from omni.loading.json import read_json

FILE = "transcription.json"


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
    said = read_json(path)
    try:
        return Dictation(str(said["instruction"]), float(said["longest"]), float(said["silence"]))
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"{path} is damaged ({type(e).__name__}: {e}); it says instruction, longest and silence"
        ) from e
