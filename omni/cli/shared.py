"""What the commands of `omni` share: options, and how errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from omni.errors import InputError, OmniError

if TYPE_CHECKING:
    from omni.api import Omni
    from omni.encoders.sources import Budget

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

notes = Console(stderr=True, highlight=False)

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", envvar="OMNI_MODEL", help="A checkpoint's folder, or its hub id; else the bundled one."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; two with a comma for thinker and voice.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Weights = Annotated[str, typer.Option(help="auto, int8 or int4: how many bits the decoders keep.")]
Vocoder = Annotated[str, typer.Option(help="faithful, fast or turbo: how much work goes into speech.")]
Eager = Annotated[bool, typer.Option("--eager", help="On a GPU, launch every kernel by itself, without CUDA graphs.")]
Media = Annotated[list[Path] | None, typer.Option(help="May be given several times.")]
Voice = Annotated[str | None, typer.Option(help="Who speaks; see `omni voices`.")]
Seconds = Annotated[float | None, typer.Option(help="Longest speech.  [default: 300]")]
Seed = Annotated[int | None, typer.Option(help="Gives the same answer again.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.  [default: torch's own]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contextmanager
def errors_told() -> Iterator[None]:
    try:
        yield
    except OmniError as e:
        notes.print("[bold red]error:[/]", escape(str(e)), soft_wrap=True)
        raise typer.Exit(2 if isinstance(e, InputError) else 1) from e


def loaded(
    model: str | None,
    device: str,
    dtype: str,
    weights: str = "auto",
    vocoder: str = "faithful",
    *,
    speech: bool,
    eager: bool = False,
    budget: Budget | None = None,
) -> Omni:
    from omni.api import Omni

    return Omni.load(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        vocoder=vocoder,
        speech=speech,
        graphs=not eager,
        budget=budget,
        progress=notes.is_terminal,
    )
