"""What the commands of `omni` share: options, and how errors are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from omni.errors import InputError, OmniError

if TYPE_CHECKING:
    from omni.api import Omni
    from omni.encoders.sources import Budget

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

notes = Console(stderr=True, highlight=False)

MODEL, MEDIA = "Model", "Media"
"""Panels of the help."""

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="OMNI_MODEL",
        metavar="NAME",
        rich_help_panel=MODEL,
        help="A checkpoint's folder, GGUF or hub id; else the bundled one.",
    ),
]
Device = Annotated[
    str, typer.Option(rich_help_panel=MODEL, help="auto, cpu, cuda or cuda:N; two with a comma for thinker and voice.")
]
Dtype = Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, float32, bfloat16 or float16.")]
Weights = Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, int8 or int4: how many bits the decoders keep.")]
Vocoder = Annotated[
    str, typer.Option(rich_help_panel=MODEL, help="faithful, fast or turbo: how much work goes into speech.")
]
Eager = Annotated[
    bool,
    typer.Option("--eager", rich_help_panel=MODEL, help="On a GPU, launch every kernel by itself, without CUDA graphs."),
]
Media = Annotated[list[Path] | None, typer.Option(rich_help_panel=MEDIA, help="May be given several times.")]
Play = Annotated[bool, typer.Option("--play", help="Play it too, as it is made; needs the extra `voice`.")]
Voice = Annotated[str | None, typer.Option(metavar="NAME", help="Who speaks; see `omni voices`.")]
Seconds = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest speech.  [default: 300]")]
Seed = Annotated[int | None, typer.Option(help="Gives the same answer again.")]
Threads = Annotated[int | None, typer.Option(min=1, rich_help_panel=MODEL, help="CPU threads.  [default: torch's own]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

WORDS = {"Path": "FILE", "str": "TEXT", "int": "NUMBER", "float": "NUMBER", "bool": ""}
"""What stands beside an option whose type this is."""


class Commands(TyperGroup):
    """Commands whose help names what people give, not types of Python."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        if command:
            params = command.get_params
            command.get_params = lambda ctx: _named(params(ctx))
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        return _named(super().get_params(ctx))


def _named(params: list[Any]) -> list[Any]:
    for param in params:
        kind = param.bare_type().removeprefix("list[").removesuffix("]").removesuffix(" | None")
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: ""  # its name stands there already
            param.metavar = param.metavar or param.name.upper()
        elif param.metavar is None:
            param.metavar = WORDS.get(kind, kind)
    return params


HELP = {"help_option_names": ["-h", "--help"]}


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


def printer(out: Path | None) -> TextIO:
    """Where text goes: standard output, unless the sound goes there."""
    from omni.cli.wave import STDOUT

    return sys.stderr if out == STDOUT else sys.stdout
