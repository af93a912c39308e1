"""`omni serve`: a page to talk to, and OpenAI's endpoints."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from omni.cli.shared import MEDIA, Device, Dtype, Eager, Model, Vocoder, Weights, errors_told, loaded

# torch takes seconds to import: commands import what they need when they run, so that --help is quick

DOOR = "Who may come in"
LONGEST = 3660
"""Seconds of a sound or clip that clients send: an hour, and what a clock may say more."""
WARMING = 20
"""Seconds after which the server takes requests though the model is not warm: large ones on a CPU take minutes."""


def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to bind; with a key any, such as 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="OMNI_API_KEY", metavar="KEY", rich_help_panel=DOOR, help="Clients must have one of these."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call the model.  [default: its folder's name]")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="More names for the model, with commas: whisper-1,tts-1.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse fields of requests that nobody here knows.")] = False,
    share_cache: Annotated[
        bool, typer.Option("--share-cache", help="Let keys find what was read for others, who can tell it by the time.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", rich_help_panel=DOOR, help="A name that this server goes by.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", rich_help_panel=DOOR, help="Another page that may connect: https://host; with a key also *."
        ),
    ] = None,
    media_domain: Annotated[
        list[str] | None, typer.Option(metavar="HOST", rich_help_panel=MEDIA, help="Fetch https media from this host.")
    ] = None,
    media_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", rich_help_panel=MEDIA, help="Read file:// media below this folder.")
    ] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option(rich_help_panel=DOOR, help="In PEM, with --ssl-keyfile: serve https.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(rich_help_panel=DOOR, help="In PEM.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.  [default: all but one]")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    vocoder: Vocoder = "faithful",
    eager: Eager = False,
) -> None:
    """Serve a page to talk to, OpenAI's Realtime API over a WebSocket, and its chat and speech endpoints over HTTP."""
    from omni.streaming.serve import Tls, bind, check_settings, run
    from omni.streaming.server.hub import Hub
    from omni.streaming.settings import Settings

    if (ssl_certfile is None) != (ssl_keyfile is None):
        raise typer.BadParameter("give --ssl-certfile and --ssl-keyfile together", param_hint="--ssl-certfile")
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
        share_cache,
    )
    with errors_told():
        check_settings(settings)
        with bind(settings) as listener:  # a port that is taken is told before torch and the model are loaded
            import torch

            from omni.encoders.sources import Budget

            # sockets, voice detection and decoding of media need a core, or they and OpenMP's workers wait for each other
            torch.set_num_threads(threads or max(1, torch.get_num_threads() - 1))
            budget = Budget(max_seconds=LONGEST, max_clip_bytes=1 << 30)
            omni = loaded(model, device, dtype, weights, vocoder, speech=True, eager=eager, budget=budget)
            called = name or (Path(model).name if model else "omni-small")
            hub = Hub(omni, called, settings, is_bundled=model is None)
            warming = threading.Thread(target=omni.warm_up, daemon=True)
            warming.start()
            warming.join(WARMING)  # who comes meanwhile waits at the door, and is then answered as fast as those after
            run(hub, listener, Tls(ssl_certfile, ssl_keyfile) if ssl_certfile and ssl_keyfile else None)
