"""All demos on a tiny checkpoint with random weights: nothing is downloaded, and it babbles.

    python -m demos.tour

Writes answer.wav and story.wav into the folder it is run in.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from demos import listen, narrate, see
from demos.tiny import make


def main(out: Path = Path()) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("A tiny model with random weights: what it says is noise, what it passes through is real.\n")
        model = str(make("3b-like", Path(folder), seed=2, ends=True))
        see.main(model, max_tokens=32)
        print()
        listen.main(model, out=out / "answer.wav", max_tokens=32, max_audio_seconds=4)
        print()
        narrate.main(model, out=out / "story.wav", max_audio_seconds=4)


if __name__ == "__main__":
    main()
