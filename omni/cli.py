"""The `omni` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from omni.errors import InputError, MessageError, OmniError

if TYPE_CHECKING:
    from omni.api import Omni
    from omni.events import Done, Event

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

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

Without --model, or OMNI_MODEL, the small model that ships with the package answers.
""",
)
notes = Console(stderr=True, highlight=False)

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", envvar="OMNI_MODEL", help="A checkpoint's folder, or its hub id; else the bundled one."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; two with a comma for thinker and voice.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Media = Annotated[list[Path] | None, typer.Option(help="May be given several times.")]
Voice = Annotated[str | None, typer.Option(help="Who speaks; see `omni voices`.")]
Seconds = Annotated[float | None, typer.Option(help="Longest speech.  [default: 300]")]
Seed = Annotated[int | None, typer.Option(help="Gives the same answer again.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.  [default: torch's own]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def ask(
    question: Annotated[str | None, typer.Argument(help="May be left out where the question is in the sound.")] = None,
    model: Model = None,
    image: Media = None,
    audio: Media = None,
    video: Media = None,
    speak: Annotated[Path | None, typer.Option(help="Speak the answer into this file (WAV, FLAC, OGG or MP3).")] = None,
    voice: Voice = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text.  [default: 1024]")] = None,
    max_audio_seconds: Seconds = None,
    temperature: Annotated[float, typer.Option(help="Of the text; 0 always takes the likeliest word.")] = 0.0,
    seed: Seed = None,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Ask about pictures, sounds and clips."""
    parts: list[dict[str, Any]] = []
    for kind, paths in (("image", image), ("audio", audio), ("video", video)):
        parts += [{"type": kind, kind: path} for path in paths or ()]
    if question:
        parts.append({"type": "text", "text": question})
    if voice and not speak:
        raise typer.BadParameter("give --speak FILE too, or leave the voice out", param_hint="--voice")
    if not parts:
        raise typer.BadParameter("give a question, or media to ask about", param_hint="QUESTION")
    with _errors_told():
        omni = _load(model, device, dtype, speech=speak is not None)
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
) -> None:
    """Speak exactly the words given."""
    with _errors_told():
        omni = _load(model, device, dtype, speech=True)
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
    from omni.checkpoint import find
    from omni.talker.voices import read_voices, write_voices

    with _errors_told():
        folder = find(model)
        known = read_voices(folder)
        print("\n".join(known))
        if convert:
            notes.print(f"wrote {write_voices(folder, known)}", markup=False)


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", envvar="OMNI_MODEL", help="Check this one too.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Tell what is here, what a checkpoint needs, what is missing and how to get it."""
    from omni.doctor import examine

    with _errors_told():
        if not examine(Console(highlight=False), model, device, dtype):
            raise typer.Exit(1)


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
) -> None:
    """Ask a whole set of questions; fails where a mark is missed."""
    import torch

    from omni.evaluate import read_set
    from omni.scores import check_place, score, show, write

    if threads:
        torch.set_num_threads(threads)
    with _errors_told():
        if out:
            check_place(out)
        given = read_set(folder, [name.strip() for name in rows.split(",") if name.strip()])
        scores = score(_load(model, device, dtype, speech=given.speaks), given, notes)
        show(scores, Console(highlight=False), verbose=verbose)
        if out:
            write(scores, given, out)
    if not all(each.passed for each in scores):
        raise typer.Exit(1)


bench = typer.Typer(no_args_is_help=True, help="Measure speed.")
app.add_typer(bench, name="bench")


@bench.command("load")
def bench_load(
    model: Model = None,
    sessions: Annotated[str, typer.Option(help="How many conversations at once.")] = "1,2,4,8",
    questions: Annotated[int, typer.Option(min=1, help="That each of them asks.")] = 8,
    seed: Annotated[int, typer.Option(help="Of when they ask, and what.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Let listeners ask at random times, and tell how long they waited for sound and whether it ever stopped."""
    import torch

    from omni.load import measure, missed, show, write
    from omni.scores import check_place

    counts = [int(n) for n in sessions.split(",") if n.strip().isdecimal()]
    if not counts or min(counts) < 1:
        raise typer.BadParameter("give numbers such as 1,2,4,8", param_hint="--sessions")
    if threads:
        torch.set_num_threads(threads)
    with _errors_told():
        if out:
            check_place(out)
        omni = _load(model, device, dtype, speech=True)
        figures = measure(omni, counts, questions=questions, seed=seed, notes=notes)
        show(figures, Console(highlight=False))
        if out:
            write(figures, omni, out)
    _tell(missed(figures) if check else [])


@bench.command("turns")
def bench_turns(
    model: Model = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median is told.")] = 5,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Tell how long the first sound takes after short and long turns, and after few and many."""
    import torch

    from omni.turns import measure, show

    if threads:
        torch.set_num_threads(threads)
    with _errors_told():
        waits = measure(_load(model, device, dtype, speech=True), repeats=repeats)
        show(waits, Console(highlight=False))
    _tell(waits.missed if check else [])


def _tell(faults: list[str]) -> None:
    """Marks that were missed; fails where there are any."""
    for fault in faults:
        notes.print("[bold red]missed:[/]", escape(fault), soft_wrap=True)
    if faults:
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
    try:
        yield from sys.stdin
    except UnicodeDecodeError as e:
        raise MessageError(f"standard input is no text ({e}); give UTF-8") from e


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except OmniError as e:
        notes.print("[bold red]error:[/]", escape(str(e)), soft_wrap=True)
        raise typer.Exit(2 if isinstance(e, InputError) else 1) from e


def _load(model: str | None, device: str, dtype: str, *, speech: bool) -> Omni:
    from omni.api import Omni

    return Omni.load(model, device=device, dtype=dtype, speech=speech, progress=notes.is_terminal)


def _follow(omni: Omni, events: Iterable[Event], out: Path | None, as_json: bool) -> None:
    """Print text and write sound as they come, then say how it went."""
    from omni.events import AudioChunk, Done, TextDelta
    from omni.wave import WaveFile

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


def main() -> None:
    app()
