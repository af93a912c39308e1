"""Asks a model aloud about a picture and a clip, and tells when it answered what.

    python -m demos.tour [MODEL]

Writes conversation.wav and what_happened.png into the folder it is run in. MODEL, or else OMNI_MODEL, is a checkpoint's
folder or hub id; without them the small model that ships with the package answers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from rich.console import Console

from demos.what_happened import Exchange, draw
from omni import AudioChunk, Done, Omni, TextDelta

MEDIA = Path(__file__).parent / "media"
CONVERSATIONS = [
    ({"type": "image", "image": MEDIA / "scene.png"}, ["where.ogg", "follow_up.ogg"]),
    ({"type": "video", "video": MEDIA / "clip.mp4"}, ["what_moves.ogg", "when.ogg"]),
]
PAUSE = 0.7
"""Seconds between an answer and the next question."""


def converse(omni: Omni, medium: dict[str, Any], questions: Sequence[str], console: Console) -> list[Exchange]:
    """Spoken questions about a picture or a clip, each one asked after the answers before."""
    path: Path = medium[medium["type"]]
    console.rule(f"[bold]{path.name}", align="left", style="dim")
    messages: list[dict[str, Any]] = []
    exchanges = []
    for name in questions:
        spoken = {"type": "audio", "audio": MEDIA / name}
        repeat = {"role": "user", "content": [spoken, {"type": "text", "text": "Repeat what I said."}]}
        heard = omni.generate([repeat], max_tokens=40).text
        console.print(f"[dim]asked[/]   {name}\n[dim]heard[/]   ", end="")
        console.print(heard, style="italic", markup=False)

        messages.append({"role": "user", "content": [spoken] if messages else [medium, spoken]})
        question, rate = soundfile.read(MEDIA / name, dtype="float32")
        exchange = Exchange(path, question, rate, heard, omni.sample_rate)
        console.print("[dim]answer[/]  ", end="")
        done = answer(omni, messages, exchange, console)
        messages.append({"role": "assistant", "content": exchange.text})

        timings = done.timings
        console.print(
            f"[dim]        first text after {ms(exchange.words)}, first sound after {ms(exchange.chunks)};", end=" "
        )
        console.print(f"[dim]{timings.audio:.1f} s of speech, real-time factor {timings.real_time_factor or 0:.2f}")
        for limit in done.limits:
            console.print(f"        [yellow]cut at the limit of {limit}")
        console.print()
        exchanges.append(exchange)
    return exchanges


def answer(omni: Omni, messages: Sequence[dict[str, Any]], exchange: Exchange, console: Console) -> Done:
    """The spoken answer, kept and shown as it comes."""
    start = time.perf_counter()
    for event in omni.stream(messages, voice=omni.default_voice, max_tokens=60, max_audio_seconds=20, seed=1):
        now = time.perf_counter() - start
        match event:
            case TextDelta(text):
                exchange.words.append((now, text))
                console.print(text, end="", style="bold", markup=False)
            case AudioChunk(samples):
                exchange.chunks.append((now, samples))
            case Done():
                console.print()
                return event
    raise AssertionError("a stream ends with Done")


def ms(pieces: Sequence[tuple[float, object]]) -> str:
    return f"{1000 * pieces[0][0]:.0f} ms" if pieces else "-"


def recording(exchanges: Sequence[Exchange], rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What someone in the room heard: questions and answers, with the time between them."""
    parts = []
    for e in exchanges:
        room = np.zeros(round((e.end + PAUSE) * rate), np.float32)
        for start, samples in e.played():
            room[round(start * rate) :][: len(samples)] = samples
        parts += [soxr.resample(e.question, e.question_rate, rate), room]
    return np.concatenate(parts)


def main(model: str | None = None, *, out: Path = Path()) -> None:
    console = Console(highlight=False, soft_wrap=True)
    model = model or os.environ.get("OMNI_MODEL")
    omni = Omni.load(model)
    if model is None:
        weights = sum(weight.numel() for weight in omni.model.parameters())
        console.print(
            f"\nA [bold]small model of a small world[/]: {weights / 1e6:.0f} million weights that know coloured shapes, "
            "tones and a few\nhundred words, and nothing else. It is asked aloud, and answers aloud:\n"
        )
    exchanges = [e for medium, questions in CONVERSATIONS for e in converse(omni, medium, questions, console)]
    soundfile.write(out / "conversation.wav", recording(exchanges, omni.sample_rate), omni.sample_rate)
    draw(exchanges, out / "what_happened.png")
    console.print("[bold]conversation.wav[/]   questions and answers, with the time between them as it was")
    console.print("[bold]what_happened.png[/]  when each word came, and each sound")
    if model is None:
        console.print("\nAsk it something yourself:   omni ask --image demos/media/scene.png 'What is in the middle?'")
        console.print("A model of the whole world:  OMNI_MODEL=Qwen/Qwen2.5-Omni-3B make demo")


if __name__ == "__main__":
    main(*sys.argv[1:2])
