"""What clients send or name as a picture, clip or sound, as bytes that the sandbox may be given."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from urllib.parse import unquote

from omni.streaming.audio.wire import unbase64
from omni.streaming.fields import Kind
from omni.streaming.problems import Problem, refused_medium, too_large
from omni.streaming.server.formats import FormatError, format_of
from omni.streaming.server.hub import Hub
from omni.streaming.server.sandbox import Upload
from omni.streaming.settings import Settings


async def fetch(hub: Hub, source: str, kind: Kind, param: str) -> Upload:
    """The file at a URL: `data:TYPE;base64,DATA`, `https://` of an allowed host, `file://` below the media folder.

    param: the field that held it, for what the client is told. Raises Problem.
    """
    limits = hub.settings.limits
    match source[:8].lower().partition(":")[0]:
        case "data":
            header, comma, text = source.partition(",")
            if not comma or not header.lower().endswith(";base64"):
                raise refused_medium(param, "a data URL has the form data:TYPE;base64,DATA; write it so")
            data = await asyncio.to_thread(unbase64, text, limits.media_bytes, param)
        case "https" | "http":
            data = await hub.remote.fetch(source, param)
        case "file":
            data = await asyncio.to_thread(read_file, hub.settings, source, param)
        case _:
            raise refused_medium(param, "give a URL that begins with data: or https://")
    return checked(hub, data, kind, param)


def checked(hub: Hub, data: bytes, kind: Kind, param: str) -> Upload:
    """The same bytes with the path of their field, unless their size or their beginning shows that they are no such medium.

    Nothing is decoded here: that is the sandbox's, when the model reads them. Raises Problem, 413 or 400.
    """
    most = hub.settings.limits.media_bytes
    if len(data) > most:
        raise too_large(param, f"{len(data)} bytes and {most} are allowed")
    if not data:
        raise refused_medium(param, "the file is empty; send it again")
    try:
        format_of(kind, data)
    except FormatError as e:
        raise Problem(f"{param} {e}", param=param, code="invalid_media") from None
    return Upload(data, param)


def read_file(settings: Settings, source: str, param: str) -> bytes:
    """The bytes of a `file://` URL below the media folder; Problem for everything else."""
    if settings.media_folder is None:
        raise refused_medium(param, "this server reads no file URLs; send the file as base64")
    most = settings.limits.media_bytes
    host, slash, name = source[len("file://") :].partition("/")
    if source[:7].lower() != "file://" or not slash or host not in ("", "localhost"):
        raise refused_medium(param, "a file URL has the form file:///PATH; write it so")
    try:
        folder = settings.media_folder.resolve(strict=True)
        path = Path(unquote("/" + name, errors="strict")).resolve()
        if not path.is_relative_to(folder):
            raise refused_medium(param, "file URLs are read only below the folder that this server was given")
        # a pipe could make the reader wait for ever; and it is no link any more, unless somebody changes it now
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise refused_medium(param, "the file URL names no regular file")
            if info.st_size > most:
                raise too_large(param, f"{info.st_size} bytes and {most} are allowed")
            return file.read(most)
    except (OSError, ValueError, RuntimeError):  # no such file, NUL or no UTF-8 in its name, a loop of links
        raise refused_medium(param, "the file URL cannot be read; check its path") from None
