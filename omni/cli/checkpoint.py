"""`omni voices`, `omni doctor` and `omni eval`: what a checkpoint has, needs and can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from omni.cli.shared import Device, Dtype, Model, Threads, Vocoder, Weights, errors_told, loaded, notes
from omni.errors import VoiceError

# torch takes seconds to import: commands import what they need when they run, so that --help is quick


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
