"""`omni ask` and `omni say`: what a model answers, and what it is given to say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni.cli.shared import (
    AsJson,
    Device,
    Dtype,
    Media,
    Model,
    Play,
    Seconds,
    Seed,
    Vocoder,
    Voice,
    Weights,
    errors_told,
    loaded,
    notes,
    printer,
)
from omni.errors import MessageError, OptionError

if TYPE_CHECKING:
    from omni.api import Omni
    from omni.events import Done, Event

# torch takes seconds to import: commands import what they need when they run, so that --help is quick


def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="May be left out where media ask it; without either, or as -, standard input is the question."),
    ] = None,
    model: Model = None,
    image: Media = None,
    audio: Media = None,
    video: Media = None,
    speak: Annotated[
        Path | None,
        typer.Option(help="Speak the answer into this file (WAV, FLAC, OGG or MP3); - is standard output."),
    ] = None,
    play: Play = False,
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
    if voice and not (speak or play):
        raise typer.BadParameter("give --speak FILE or --play too, or leave the voice out", param_hint="--voice")
    if question == "-" or (question is None and not parts):
        with errors_told():
            question = "".join(_standard_input()).rstrip("\r\n")
    if question:
        parts.append({"type": "text", "text": question})
    if not parts:
        raise typer.BadParameter("give a question, or media to ask about", param_hint="QUESTION")
    with errors_told():
        aloud = play or speak is not None
        omni = loaded(model, device, dtype, weights, vocoder, speech=aloud)
        events = omni.stream(
            [{"role": "user", "content": parts}],
            voice=(voice or omni.default_voice) if aloud else None,
            temperature=temperature,
            seed=seed,
            **_lengths(max_tokens, max_audio_seconds),
        )
        _follow(omni, events, speak, as_json, play)


def say(
    text: Annotated[str, typer.Argument(help="The words; - reads them from standard input as they come.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to speak into (WAV, FLAC, OGG or MP3); - is standard output."),
    ] = None,
    play: Play = False,
    model: Model = None,
    voice: Voice = None,
    instruction: Annotated[str, typer.Option(help="How to say it.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Words that the voice has no sound for are an error.")] = False,
    max_audio_seconds: Annotated[float | None, typer.Option(help="Longest speech.  [default: as long as it takes]")] = None,
    seed: Seed = None,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
) -> None:
    """Speak exactly the words given, however many."""
    if out is None and not play:
        raise typer.BadParameter("give --out FILE, or --play to hear it", param_hint="--out")
    with errors_told():
        omni = loaded(model, device, dtype, weights, vocoder, speech=True)
        events = omni.say(
            _standard_input() if text == "-" else text,
            voice=voice,
            context=instruction or (),
            strict=strict,
            seed=seed,
            **_lengths(None, max_audio_seconds),
        )
        _follow(omni, events, out, as_json, play)


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


def _follow(omni: Omni, events: Iterable[Event], out: Path | None, as_json: bool, play: bool) -> None:
    """Print text, write sound and play it as they come, then say how it went."""
    from omni.cli.wave import STDOUT, WaveFile
    from omni.events import AudioChunk, Done, TextDelta
    from omni.streaming.client.headset import Loudspeaker

    if as_json and out == STDOUT:
        raise OptionError("the sound and --json would both go to standard output; name a file for one of them")
    text, to = list[str](), printer(out)
    with WaveFile(out, omni.sample_rate) as file, Loudspeaker(omni.sample_rate) if play else nullcontext() as loudspeaker:
        for event in events:
            match event:
                case TextDelta():
                    text.append(event.text)
                    if not as_json:
                        print(event.text, end="", flush=True, file=to)
                case AudioChunk():
                    file.write(event.samples)
                    if loudspeaker:
                        loudspeaker.play(event.samples)
                case Done():
                    done = event
    if as_json:
        print(json.dumps(_as_json("".join(text), out, done), indent=2, ensure_ascii=False))
        return
    if text:
        print(file=to)
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
    from omni.cli.wave import STDOUT

    t = done.timings
    facts = [f"{t.total:.2f} s in all"]
    if t.first_text is not None:
        facts.append(f"first text after {t.first_text:.2f} s")
    if t.first_audio is not None:
        facts += [
            f"first sound after {t.first_audio:.2f} s",
            f"{t.audio:.2f} s of sound{f' in {out}' if out and out != STDOUT else ''}",
        ]
    if done.limits:
        facts.append(f"cut off by the {' and the '.join(done.limits)} limit")
    notes.print(" · ".join(facts), style="dim", markup=False, soft_wrap=True)
    for warning in done.warnings:
        notes.print(f"warning: {warning}", markup=False, soft_wrap=True)
