"""The `omni` command."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from omni.cli import bench as cli_bench
from omni.cli.shared import (
    AsJson,
    Device,
    Dtype,
    Eager,
    Media,
    Model,
    Seconds,
    Seed,
    Threads,
    Vocoder,
    Voice,
    Weights,
    errors_told,
    loaded,
    notes,
)
from omni.errors import MessageError, VoiceError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from PIL.Image import Image

    from omni.api import Omni
    from omni.cli.wave import WaveFile
    from omni.events import Done, Event
    from omni.streaming.client.conversation import Answer, Client
    from omni.streaming.client.headset import Headset

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

LEAST_SAID = 0.1
"""Seconds of sound that a turn by microphone has at least."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Talk with models that see, hear and speak.

**Examples**

    omni ask --image scene.png "How many red circles are there?"

    omni ask --image scene.png --audio question.wav --speak answer.wav

    omni say "Hello! How can I help you?" -o hello.wav

    omni ask --model Qwen/Qwen2.5-Omni-3B --image cat.jpg "What is this?"

    git diff | omni ask --model Qwen/Qwen3-0.6B

Without --model, or OMNI_MODEL, the small model that ships with the package answers.
""",
)
app.add_typer(cli_bench.app, name="bench")


@app.command()
def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="May be left out where media ask it; without either, or as -, standard input is the question."),
    ] = None,
    model: Model = None,
    image: Media = None,
    audio: Media = None,
    video: Media = None,
    speak: Annotated[Path | None, typer.Option(help="Speak the answer into this file (WAV, FLAC, OGG or MP3).")] = None,
    voice: Voice = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text.  [default: 1024]")] = None,
    max_audio_seconds: Seconds = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the text; 0 always takes the likeliest word.  [default: the checkpoint's own]")
    ] = None,
    seed: Seed = None,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
) -> None:
    """Ask, about pictures, sounds and clips too; text is printed as it comes."""
    parts: list[dict[str, Any]] = []
    for kind, paths in (("image", image), ("audio", audio), ("video", video)):
        parts += [{"type": kind, kind: path} for path in paths or ()]
    if voice and not speak:
        raise typer.BadParameter("give --speak FILE too, or leave the voice out", param_hint="--voice")
    if question == "-" or (question is None and not parts):
        with errors_told():
            question = "".join(_standard_input()).rstrip("\r\n")
    if question:
        parts.append({"type": "text", "text": question})
    if not parts:
        raise typer.BadParameter("give a question, or media to ask about", param_hint="QUESTION")
    with errors_told():
        omni = loaded(model, device, dtype, weights, vocoder, speech=speak is not None)
        events = omni.stream(
            [{"role": "user", "content": parts}],
            voice=(voice or omni.default_voice) if speak else None,
            temperature=temperature,
            seed=seed,
            **_lengths(max_tokens, max_audio_seconds),
        )
        _follow(omni, events, speak, as_json)


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="The words; - reads them from standard input as they come.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to speak into (WAV, FLAC, OGG or MP3).")],
    model: Model = None,
    voice: Voice = None,
    instruction: Annotated[str, typer.Option(help="How to say it.")] = "",
    max_audio_seconds: Seconds = None,
    seed: Seed = None,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
) -> None:
    """Speak exactly the words given."""
    with errors_told():
        omni = loaded(model, device, dtype, weights, vocoder, speech=True)
        events = omni.say(
            _standard_input() if text == "-" else text,
            voice=voice,
            context=instruction or (),
            seed=seed,
            **_lengths(None, max_audio_seconds),
        )
        _follow(omni, events, out, as_json)


@app.command()
def voices(
    model: Model = None,
    convert: Annotated[bool, typer.Option("--convert", help="Keep them as voices.safetensors beside spk_dict.pt.")] = False,
) -> None:
    """List the voices of a checkpoint."""
    from omni.families import read_config
    from omni.loading.checkpoint import find
    from omni.talker.voices import read_voices, write_voices

    with errors_told():
        folder = find(model)
        if read_config(folder).talker is None:
            raise VoiceError(f"{folder} does not speak, so it has no voices; take one that speaks")
        known = read_voices(folder)
        print("\n".join(known))
        if convert:
            notes.print(f"wrote {write_voices(folder, known)}", markup=False)


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", envvar="OMNI_MODEL", help="Check this one too.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Tell what is here, what a checkpoint needs, what is missing and how to get it."""
    from omni.cli.doctor import examine

    with errors_told():
        if not examine(Console(highlight=False), model, device, dtype, weights):
            raise typer.Exit(1)


@app.command()
def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="The address to bind; with a key any, such as 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[list[str] | None, typer.Option(envvar="OMNI_API_KEY", help="Clients must have one of these.")] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model.  [default: its folder's name]")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="More names for the model, with commas: whisper-1,tts-1.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse fields of requests that nobody here knows.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name that this server goes by.")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="Another page that may connect: https://host.")] = None,
    media_domain: Annotated[list[str] | None, typer.Option(help="Fetch https media from this host.")] = None,
    media_folder: Annotated[Path | None, typer.Option(help="Read file:// media below this folder.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="In PEM, with --ssl-keyfile: serve https.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="In PEM.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.  [default: all but one]")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
    eager: Eager = False,
) -> None:
    """Serve a page to talk to, OpenAI's Realtime API over a WebSocket, and its chat and speech endpoints over HTTP."""
    import torch

    from omni.encoders.sources import Budget
    from omni.streaming.serve import Tls, check_settings
    from omni.streaming.serve import serve as serve_forever
    from omni.streaming.server.hub import TRANSCRIBE, TRANSCRIBE_BUNDLED
    from omni.streaming.settings import Settings

    if (ssl_certfile is None) != (ssl_keyfile is None):
        raise typer.BadParameter("give --ssl-certfile and --ssl-keyfile together", param_hint="--ssl-certfile")
    # sockets, voice detection and decoding of media need a core, or they and OpenMP's workers wait for each other
    torch.set_num_threads(threads or max(1, torch.get_num_threads() - 1))
    settings = Settings(
        host,
        port,
        tuple(api_key or ()),
        tuple(allow_host or ()),
        tuple(allow_origin or ()),
        tuple(media_domain or ()),
        media_folder,
        tuple(name.strip() for names in alias or () for name in names.split(",")),
        strict,
    )
    with errors_told():
        check_settings(settings)
        budget = Budget(max_seconds=1800, max_clip_bytes=1 << 30)
        omni = loaded(model, device, dtype, weights, vocoder, speech=True, eager=eager, budget=budget)
        threading.Thread(target=omni.warm_up, daemon=True).start()
        serve_forever(
            omni,
            name or (Path(model).name if model else "omni-small"),
            settings,
            tls=Tls(ssl_certfile, ssl_keyfile) if ssl_certfile and ssl_keyfile else None,
            transcribe_prompt=TRANSCRIBE if model else TRANSCRIBE_BUNDLED,
        )


@app.command()
def chat(
    url: Annotated[str, typer.Option(envvar="OMNI_URL", help="Of the server, see `omni serve`.")] = "ws://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="OMNI_API_KEY", help="Where the server wants one.")] = None,
    image: Media = None,
    audio: Annotated[list[Path] | None, typer.Option(help="A recording to ask with, instead of typing.")] = None,
    microphone: Annotated[bool, typer.Option("--microphone", help="Talk: Enter begins a turn, and Enter ends it.")] = False,
    speak: Annotated[Path | None, typer.Option(help="Speak the answers into this file (WAV, FLAC, OGG or MP3).")] = None,
    voice: Voice = None,
    instructions: Annotated[str, typer.Option(help="What the model is told before.")] = "",
) -> None:
    """Talk with a server: a line for each turn, a recording, or by microphone; an empty line ends."""
    from omni.cli.wave import WaveFile
    from omni.streaming.client.conversation import Client
    from omni.streaming.client.headset import Headset

    if microphone and audio:
        raise typer.BadParameter("give --audio or --microphone, not both", param_hint="--microphone")
    with (
        errors_told(),
        WaveFile(speak, Client.rate) as file,
        Headset(Client.rate) if microphone else nullcontext() as headset,
        Client(url, key=api_key, voice=voice, instructions=instructions, speaks=bool(speak or microphone)) as client,
    ):
        for path in image or ():
            client.show(_picture(path))
        for question in _spoken(headset) if headset else map(_recording, audio) if audio else _typed():
            _tell_answer(client, question, file, headset)


@app.command("eval")
def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(help="An evaluation set.  [default: the small one of the package]")
    ] = None,
    model: Model = None,
    rows: Annotated[str, typer.Option(help="Only these: hears,sees")] = "",
    out: Annotated[Path | None, typer.Option("--json", help="Write figures and wrong answers into this file.")] = None,
    threads: Threads = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List wrong answers.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
) -> None:
    """Ask a whole set of questions; fails where a mark is missed."""
    import torch

    from omni.evaluation.evaluate import read_set
    from omni.evaluation.scores import check_place, score, show, write

    if threads:
        torch.set_num_threads(threads)
    with errors_told():
        if out:
            check_place(out)
        given = read_set(folder, [name.strip() for name in rows.split(",") if name.strip()])
        scores = score(loaded(model, device, dtype, weights, vocoder, speech=given.speaks), given, notes)
        show(scores, Console(highlight=False), verbose=verbose)
        if out:
            write(scores, given, out)
    if not all(each.passed for each in scores):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(version("omni-runtime"))
        raise typer.Exit


def _lengths(max_tokens: int | None, max_audio_seconds: float | None) -> dict[str, Any]:
    """Those limits that were given; the others are the library's."""
    given = {"max_tokens": max_tokens, "max_audio_seconds": max_audio_seconds}
    return {name: value for name, value in given.items() if value is not None}


def _standard_input() -> Iterator[str]:
    if sys.stdin.isatty():
        notes.print("type, and end with Ctrl-D", style="dim")
    try:
        yield from sys.stdin
    except UnicodeDecodeError as e:
        raise MessageError(f"standard input is no text ({e}); give UTF-8") from e


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
    client: Client, question: str | tuple[NDArray[float32], int], file: WaveFile, headset: Headset | None = None
) -> None:
    """Print an answer as it comes, write its sound, and play it."""
    shown = sounds = 0
    told = False
    for answer in client.ask(question):
        if answer.heard and not shown and not told:
            _tell_heard(answer)
            told = True
        print(answer.text[shown:], end="", flush=True)
        for samples in answer.sound[sounds:]:
            file.write(samples)
            if headset:
                headset.play(samples)
        shown, sounds = len(answer.text), len(answer.sound)
    print()
    if answer.heard and not told:  # it came while the answer was being printed
        _tell_heard(answer)
    if answer.first_sound is not None:
        notes.print(f"first sound after {answer.first_sound:.2f} s", style="dim")


def _tell_heard(answer: Answer) -> None:
    notes.print(f"heard: {answer.heard}", markup=False)


def _follow(omni: Omni, events: Iterable[Event], out: Path | None, as_json: bool) -> None:
    """Print text and write sound as they come, then say how it went."""
    from omni.cli.wave import WaveFile
    from omni.events import AudioChunk, Done, TextDelta

    text: list[str] = []
    with WaveFile(out, omni.sample_rate) as file:
        for event in events:
            match event:
                case TextDelta():
                    text.append(event.text)
                    if not as_json:
                        print(event.text, end="", flush=True)
                case AudioChunk():
                    file.write(event.samples)
                case Done():
                    done = event
    if as_json:
        print(json.dumps(_as_json("".join(text), out, done), indent=2, ensure_ascii=False))
        return
    print()
    _report(out, done)


def _as_json(text: str, out: Path | None, done: Done) -> dict[str, Any]:
    return {
        "text": text,
        "audio": str(out) if out else None,
        "finish_reason": done.finish_reason,
        "limits": done.limits,
        "warnings": done.warnings,
        "seed": done.seed,
        "usage": asdict(done.usage),
        "timings": asdict(done.timings) | {"real_time_factor": done.timings.real_time_factor},
    }


def _report(out: Path | None, done: Done) -> None:
    t = done.timings
    facts = [f"{t.total:.2f} s in all"]
    if t.first_text is not None:
        facts.append(f"first text after {t.first_text:.2f} s")
    if out and t.first_audio is not None:
        facts += [f"first sound after {t.first_audio:.2f} s", f"{t.audio:.2f} s of sound in {out}"]
    if done.limits:
        facts.append(f"cut off by the {' and the '.join(done.limits)} limit")
    notes.print(" · ".join(facts), style="dim", markup=False, soft_wrap=True)
    for warning in done.warnings:
        notes.print(f"warning: {warning}", markup=False, soft_wrap=True)


def main() -> None:
    app()
