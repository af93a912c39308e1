"""Speech streamed from text, while the text is still being written.

    python -m demos.narrate [MODEL]

MODEL is a folder or a hub id such as Qwen/Qwen2.5-Omni-3B; without it the small model that ships with the package speaks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile

from omni import AudioChunk, Done, Omni

STORY = "The little dog and the big cat play in the snow. Now it is time to sleep."


def writer() -> Iterator[str]:
    """Stands for whatever writes the text: pieces come one by one, and may end anywhere."""
    for start in range(0, len(STORY), 7):
        yield STORY[start : start + 7]


def main(model: str | None = None, *, out: Path = Path("story.wav"), max_audio_seconds: float = 60) -> None:
    omni = Omni.load(model)
    print(STORY)
    with soundfile.SoundFile(out, "w", omni.sample_rate, channels=1) as file:
        for event in omni.say(writer(), voice="Ethan", max_audio_seconds=max_audio_seconds):
            match event:
                case AudioChunk(samples, rate, start):
                    file.write(samples)
                    print(f"  sound from {start / rate:5.2f} s to {(start + len(samples)) / rate:5.2f} s")
                case Done(timings=timings):
                    print(f"  first sound after {timings.first_audio or 0:.2f} s, {timings.audio:.2f} s of speech in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
