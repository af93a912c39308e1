"""`omni chat`: a conversation with a server, typed, recorded or by microphone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from omni.cli.shared import Media, Play, Voice, errors_told, notes, printer

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from PIL.Image import Image

    from omni.cli.wave import WaveFile
    from omni.streaming.client.conversation import Answer, Client
    from omni.streaming.client.headset import Headset, Loudspeaker

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

LEAST_SAID = 0.1
"""Seconds of sound that a turn by microphone has at least."""


def chat(
    url: Annotated[
        str, typer.Option(envvar="OMNI_URL", metavar="URL", help="Of the server, see `omni serve`; http, https, ws or wss.")
    ] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="OMNI_API_KEY", metavar="KEY", help="Where the server wants one.")
    ] = None,
    image: Media = None,
    audio: Annotated[list[Path] | None, typer.Option(help="A recording to ask with, instead of typing.")] = None,
    microphone: Annotated[bool, typer.Option("--microphone", help="Talk: Enter begins a turn, and Enter ends it.")] = False,
    speak: Annotated[
        Path | None,
        typer.Option(help="Speak the answers into this file (WAV, FLAC, OGG or MP3); - is standard output."),
    ] = None,
    play: Play = False,
    voice: Voice = None,
    instructions: Annotated[str, typer.Option(help="What the model is told before.")] = "",
) -> None:
    """Talk with a server: a line for each turn, a recording, or by microphone; an empty line ends."""
    from omni.cli.wave import WaveFile
    from omni.streaming.client.conversation import Client
    from omni.streaming.client.headset import Headset, Loudspeaker

    if microphone and audio:
        raise typer.BadParameter("give --audio or --microphone, not both", param_hint="--microphone")
    aloud = bool(speak or microphone or play)
    with (
        errors_told(),
        WaveFile(speak, Client.rate) as file,
        Headset(Client.rate) if microphone else nullcontext() as headset,
        Loudspeaker(Client.rate) if play and not microphone else nullcontext() as loudspeaker,
        Client(url, key=api_key, voice=voice, instructions=instructions, speaks=aloud) as client,
    ):
        for path in image or ():
            client.show(_picture(path))
        for question in _spoken(headset) if headset else map(_recording, audio) if audio else _typed():
            _tell_answer(client, question, file, headset or loudspeaker, printer(speak))


def _typed() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _picture(path: Path) -> Image:
    from omni.encoders.pictures import read_image

    return read_image(path)


def _recording(path: Path) -> tuple[NDArray[float32], int]:
    from omni.encoders.waves import read_audio
    from omni.streaming.client.conversation import Client

    return read_audio(path, Client.rate), Client.rate


def _spoken(headset: Headset) -> Iterator[tuple[NDArray[float32], int]]:
    """Turns by push to talk, until the end of the input."""
    with suppress(EOFError):
        while True:
            headset.wait()
            input("Enter to talk ")
            said = headset.record(lambda: input("Enter when you have said it "))
            if len(said) < LEAST_SAID * headset.rate:
                notes.print("heard nothing: speak between the two, and see that the microphone is not muted")
                continue
            yield said, headset.rate


def _tell_answer(
    client: Client,
    question: str | tuple[NDArray[float32], int],
    file: WaveFile,
    loudspeaker: Loudspeaker | None,
    to: TextIO,
) -> None:
    """Print an answer as it comes, write its sound, and play it."""
    shown = sounds = 0
    told = False
    for answer in client.ask(question):
        if answer.heard and not shown and not told:
            _tell_heard(answer)
            told = True
        print(answer.text[shown:], end="", flush=True, file=to)
        for samples in answer.sound[sounds:]:
            file.write(samples)
            if loudspeaker:
                loudspeaker.play(samples)
        shown, sounds = len(answer.text), len(answer.sound)
    print(file=to)
    if answer.heard and not told:  # it came while the answer was being printed
        _tell_heard(answer)
    if answer.first_sound is not None:
        notes.print(f"first sound after {answer.first_sound:.2f} s", style="dim")


def _tell_heard(answer: Answer) -> None:
    notes.print(f"heard: {answer.heard}", markup=False)
