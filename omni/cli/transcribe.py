"""`omni transcribe`: what is said in a recording, as text, subtitles or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from omni.cli.shared import Device, Dtype, Model, Weights, errors_told, loaded, notes
from omni.errors import OptionError

if TYPE_CHECKING:
    from omni.events import Heard, Transcript

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

FORMATS = ("text", "srt", "vtt", "json")


def transcribe(
    file: Annotated[str, typer.Argument(help="A recording, or a clip with sound, of any length; - reads standard input.")],
    form: Annotated[
        Literal["text", "srt", "vtt", "json"] | None,
        typer.Option("--format", "-f", metavar="|".join(FORMATS), help="[default: by the name of --out, else text]"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; else standard output.")] = None,
    words: Annotated[bool, typer.Option("--words", help="In JSON, tell when each word was said.")] = False,
    instruction: Annotated[str | None, typer.Option(help="What the model is told to do.  [default: its own]")] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Write down what is said in a recording, cut at its silences."""
    suffix = out.suffix[1:].lower() if out else ""
    kind: str = form or (suffix if suffix in FORMATS else "text")
    with errors_told():
        if out and not out.parent.is_dir():
            raise OptionError(f"{out.parent} is no folder; make it first")
        omni = loaded(model, device, dtype, weights, speech=False)
        source = sys.stdin.buffer.read() if file == "-" else file
        timed = kind in ("srt", "vtt") or words
        heard = omni.stream_transcript(source, words=timed, instruction=instruction)
        written = _follow(heard, shown=kind == "text" and out is None)
        if out or kind != "text":
            _write(_as(kind, written), out)
    for warning in written.warnings:
        notes.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _follow(heard: Iterable[Heard], *, shown: bool) -> Transcript:
    """The whole, printed as it comes if that is how it is shown."""
    from omni.events import TextDelta, Transcript

    for event in heard:
        if shown and isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        if isinstance(event, Transcript):
            written = event
    if shown:
        print()
    return written


def _as(form: str, written: Transcript) -> str:
    from omni.streaming.endpoints.subtitles import srt, vtt

    match form:
        case "srt":
            return srt(written.segments)
        case "vtt":
            return vtt(written.segments)
        case "json":
            return json.dumps(_json(written), indent=2, ensure_ascii=False) + "\n"
        case _:
            return f"{written.text}\n"


def _json(written: Transcript) -> dict[str, Any]:
    segments = []
    for segment in written.segments:
        told = {"start": segment.start, "end": segment.end, "text": segment.text, "limits": segment.limits}
        segments.append(told | ({} if segment.words is None else {"words": [asdict(word) for word in segment.words]}))
    return {
        "text": written.text,
        "seconds": written.seconds,
        "segments": segments,
        "warnings": written.warnings,
        "usage": asdict(written.usage),
    }


def _write(text: str, out: Path | None) -> None:
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as e:
        raise OptionError(f"{out} cannot be written: {e.strerror}; name another file") from e
