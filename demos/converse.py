"""A voice conversation over the socket: a picture is shown, questions are asked aloud, the answers come back as sound.

    omni serve &
    python -m demos.converse [URL]

URL is the server's, ws://127.0.0.1:8000 unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from omni.streaming.client.conversation import URL, Client

MEDIA = Path(__file__).parent / "media"


def main(url: str = URL, *, out: Path = Path("conversation.wav")) -> None:
    spoken = []
    with Client(url, voice="Chelsie") as client, Image.open(MEDIA / "scene.png") as picture:
        client.show(picture)
        for name in ("where.ogg", "follow_up.ogg"):
            question = soundfile.read(MEDIA / name, dtype="float32")
            shown = 0
            for answer in client.ask(question):
                print(answer.text[shown:], end="", flush=True)
                shown = len(answer.text)
            print(f"\n  heard {answer.heard!r}; first sound {answer.first_sound:.2f} s after the end of the question")
            spoken.append(answer.samples)
    soundfile.write(out, np.concatenate(spoken), Client.rate)
    print(f"  what it said is in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
