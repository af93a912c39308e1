"""The `omni` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from omni.cli import bench
from omni.cli.ask import ask, say
from omni.cli.chat import chat
from omni.cli.checkpoint import doctor, evaluate, voices
from omni.cli.serve import serve
from omni.cli.shared import HELP, Commands
from omni.cli.transcribe import transcribe

app = typer.Typer(
    no_args_is_help=True,
    cls=Commands,
    context_settings=HELP,
    rich_markup_mode="markdown",
    help="""Talk with models that see, hear and speak.

**Examples**

    omni ask --image scene.png "How many red circles are there?"

    omni ask --image scene.png --audio question.wav --speak answer.wav

    omni say "Hello! How can I help you?" -o hello.wav

    omni ask --model Qwen/Qwen2.5-Omni-3B --image cat.jpg "What is this?"

    git diff | omni ask --model Qwen/Qwen3-0.6B

Without --model, or OMNI_MODEL, the small model that ships with the package answers.

`omni COMMAND -h` tells more; `omni --install-completion` lets the shell complete names and options.
""",
)
for command in (ask, say, transcribe, chat, serve, voices, doctor):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(version("omni-runtime"))
        raise typer.Exit
