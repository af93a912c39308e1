"""The event loop's longest pause while hostile and large JSON comes in, over HTTP and over the realtime socket."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from omni.streaming.serve import bind, server_of
from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, hub_of
from tests.streaming.running import Still

MOST = 0.05
"""Seconds that nobody else is served."""
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


def body(**more: Any) -> str:
    return json.dumps({**HELLO, **more})


def messages(*content: Any) -> str:
    return body(messages=[{"role": "user", "content": each} for each in content])


def item(parts: str) -> str:
    return '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[' + parts + "]}}"


def repeated(piece: str, num: int) -> str:
    return ",".join([piece] * num)


SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF" * (3 << 20)).decode(), "format": "wav"}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a":' * 900 + "1" + "}" * 900}}
BODIES: dict[str, tuple[Callable[[], str], int]] = {
    "fields": (lambda: "{" + ",".join(f'"f{i}":1' for i in range(3_000_000)) + "}", 413),
    "fields, just few enough": (lambda: body(**{f"f{i}": 1 for i in range(16_000)}), 200),
    "messages": (lambda: '{"messages":[' + repeated('{"role":"user","content":"x"}', 1_000_000) + "]}", 413),
    "messages, just few enough": (lambda: messages(*["x"] * 6000), 400),
    "empty messages": (lambda: body(messages=[{}] * 16_000), 400),
    "parts": (lambda: messages([""] * 30_000), 400),
    "parts of many messages": (lambda: messages(*[[""] * 1000] * 30), 200),
    "tools": (lambda: body(tools=[{"type": "function", "function": {"name": "f"}}] * 4000), 400),
    "calls nested deeply": (lambda: body(messages=[{"role": "assistant", "tool_calls": [CALL] * 300}]), 400),
    "one long text": (lambda: messages("\u00e9" * (4 << 20)), 413),
    "sound": (lambda: messages([SOUND]), 400),
}
FRAMES: dict[str, Callable[[], str]] = {
    "parts": lambda: item(repeated('{"type":"input_text","text":"x"}', 600_000)),
    "parts, just few enough": lambda: item(repeated('{"type":"input_text","text":"x"}', 6000)),
    "tools": lambda: '{"type":"session.update","session":{"tools":[' + repeated("{}", 700_000) + "]}}",
    "fields": lambda: '{"type":"response.create",' + ",".join(f'"f{i}":1' for i in range(16_000)) + "}",
    "input": lambda: '{"type":"response.create","response":{"input":[' + repeated("{}", 16_000) + "]}}",
    "no base64": lambda: '{"type":"input_audio_buffer.append","audio":"' + "A" * (19 << 20) + '!"}',
}


async def longest_pause(talk: Callable[[int], Any]) -> tuple[float, Any]:
    """What a client heard, and the longest time for which the loop stood meanwhile, not counting what others computed."""
    with bind(Settings(port=0)) as listener:
        server = server_of(hub_of(Still()))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        longest = 0.0
        gc.collect()
        gc.freeze()  # as the program does
        talking = asyncio.create_task(asyncio.to_thread(talk, listener.getsockname()[1]))
        while not talking.done():
            wall, computed = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.001)
            longest = max(longest, min(time.perf_counter() - wall, time.process_time() - computed))
        gc.unfreeze()
        server.should_exit = True
        await serving
        return longest, await talking


def least_pause(talk: Callable[[int], Any], most: float, tries: int = 4) -> tuple[float, Any]:
    """The least of a few tries, none more once one is short enough: what else the machine does only makes pauses longer."""
    least, answered = asyncio.run(longest_pause(talk))
    for _ in range(tries - 1):
        if least < most:
            break
        longest, answered = asyncio.run(longest_pause(talk))
        least = min(least, longest)
    return least, answered


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str) -> None:
    make, status = BODIES[name]
    data = make().encode()

    def talk(port: int) -> int:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.post(url, content=data, headers={"content-type": "application/json"}).status_code

    longest, answered = least_pause(talk, MOST)
    assert answered == status
    assert longest < MOST


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    text = FRAMES[name]().encode()
    size = b"\xfe" + struct.pack(">H", len(text)) if len(text) < 1 << 16 else b"\xff" + struct.pack(">Q", len(text))
    frame = b"\x81" + size + bytes(4) + text

    def talk(port: int) -> Any:
        with connect(f"ws://127.0.0.1:{port}/v1/realtime?model={MODEL}", proxy=None, max_size=None) as client:
            client.recv(10)
            with client.protocol_mutex:  # its own masking would hold Python's lock
                client.socket.sendall(frame)
            return json.loads(client.recv(60))["type"]

    most = 4 * MOST if len(text) > 10 << 20 else MOST  # it comes off the wire in one piece
    longest, answered = least_pause(talk, most)
    assert longest < most
    assert answered in ("error", "response.created")
