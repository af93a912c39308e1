"""Written questions about a picture and a clip.

    python -m demos.see [MODEL]

MODEL is a folder or a hub id such as Qwen/Qwen2.5-Omni-3B; without it the small model that ships with the package answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omni import Omni, TextDelta

MEDIA = Path(__file__).parent / "media"


def main(model: str | None = None, *, max_tokens: int = 128) -> None:
    omni = Omni.load(model)

    # a picture: the whole answer at once
    picture = {"type": "image", "image": MEDIA / "scene.png"}
    question = "What is at the top right?"
    reply = omni.generate(
        [{"role": "user", "content": [picture, {"type": "text", "text": question}]}], max_tokens=max_tokens
    )
    print(f"{question}\n  {reply.text}")
    print(f"  {reply.usage.image_tokens} picture tokens, {reply.timings.total:.2f} s")

    # a clip with its sound: the answer word by word
    clip = {"type": "video", "video": MEDIA / "clip.mp4", "fps": 2.0}
    question = "Which way does it move?"
    print(question, end="\n  ")
    messages = [{"role": "user", "content": [clip, {"type": "text", "text": question}]}]
    for event in omni.stream(messages, max_tokens=max_tokens):
        match event:
            case TextDelta(text):
                print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:2])
