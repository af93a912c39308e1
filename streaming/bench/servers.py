"""The servers that a bench measures, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import orjson

from omni.errors import EngineError
from omni.streaming.bench.caller import Place
from omni.streaming.bench.script import Made, Script, Sent

END_SECONDS = 30.0
"""How long a server may take to end."""
OMNI = "from omni.cli.main import main; main()"


@dataclass
class Scripting:
    """A server with the scripted model. made, sent: what it stamped; known when it has ended."""

    place: Place
    made: list[Made] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripting]:
    """A server whose model says what a script has, until the end of the block."""
    async with _started("-m", "omni.streaming.bench.script", orjson.dumps([*script]).decode()) as (process, line):
        yield (server := Scripting(Place(f"ws://127.0.0.1:{line}")))
        try:
            async with asyncio.timeout(END_SECONDS):
                out, _ = await process.communicate(b"")  # the end of its input ends it
        except TimeoutError:
            raise EngineError(f"the scripted server did not end within {END_SECONDS:g} seconds") from None
        told = orjson.loads(out)
        server.made += [Made(**each) for each in told["made"]]
        server.sent += [Sent(**each) for each in told["sent"]]


@asynccontextmanager
async def serving(options: Sequence[str]) -> AsyncIterator[Place]:
    """`omni serve` with these options at a free port of this machine, until the end of the block."""
    async with _started("-c", OMNI, "serve", "--host", "127.0.0.1", "--port", "0", *options) as (process, line):
        yield Place(line.rpartition(" ")[2].replace("http", "ws", 1))
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.communicate()


@asynccontextmanager
async def _started(*args: str) -> AsyncIterator[tuple[Process, str]]:
    """A Python process and its first line; it is gone after the block."""
    env = {name: value for name, value in os.environ.items() if name != "OMNI_API_KEY"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", *args, stdin=PIPE, stdout=PIPE, env=env)
    try:
        assert process.stdout
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            raise EngineError("the server did not start; what it printed says why")
        yield process, line
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
