"""A recorded question about a picture, answered aloud.

    python -m demos.listen [MODEL]

MODEL is a folder or a hub id such as Qwen/Qwen2.5-Omni-3B; without it the small model that ships with the package answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import soundfile

from omni import Omni

MEDIA = Path(__file__).parent / "media"


def main(
    model: str | None = None, *, out: Path = Path("answer.wav"), max_tokens: int = 128, max_audio_seconds: float = 60
) -> None:
    omni = Omni.load(model)
    parts = [{"type": "image", "image": MEDIA / "scene.png"}, {"type": "audio", "audio": MEDIA / "how_many.ogg"}]
    reply = omni.generate(
        [{"role": "user", "content": parts}], voice="Chelsie", max_tokens=max_tokens, max_audio_seconds=max_audio_seconds
    )
    print(f"how_many.ogg about scene.png\n  {reply.text}")
    assert reply.audio is not None
    soundfile.write(out, reply.audio, reply.sample_rate)
    factor = reply.timings.real_time_factor
    print(f"  {reply.timings.audio:.2f} s of speech in {out}", f"at {factor:.2f} times its length" if factor else "")


if __name__ == "__main__":
    main(*sys.argv[1:2])
