"""Realtime sockets on a real server: many at once, those that vanish, and the published client; the model is a stand-in."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import Iterator

import orjson
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from omni.streaming.server.hub import Hub
from tests.streaming.doubles import MODEL, hub_of, serving
from tests.streaming.socket_client import FakeOmni, Step, TextDelta, chunk, done
from tests.streaming.talk import Json

WAIT = 20.0
LONG: list[Step] = [TextDelta("Once upon a time"), *[chunk(1000)] * 60, done()]


@pytest.fixture
def hub() -> Hub:
    return hub_of(FakeOmni(*[LONG] * 100))


@pytest.fixture
def url(hub: Hub) -> Iterator[str]:
    with serving(hub) as address:
        yield f"{address.replace('http', 'ws')}/v1/realtime?model={MODEL}"


async def until(socket: ClientConnection, type: str) -> Json:
    async with asyncio.timeout(WAIT):
        while True:
            event: Json = orjson.loads(await socket.recv())
            if event["type"] == type:
                return event


def gone(hub: Hub) -> bool:
    """Whether all sockets are forgotten, and with them what they had asked for."""
    omni: FakeOmni = hub.omni  # type: ignore[assignment]  # a stand-in
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if not hub.counts.sessions and all(session.over for session in omni.asked) and not hub.metrics.num_running:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("seen", ["session.created", "response.created", "response.output_audio.delta"])
def test_clients_that_vanish_leave_nothing(hub: Hub, url: str, seen: str) -> None:
    async def vanish() -> None:
        async with connect(url, proxy=None) as socket:
            await socket.send('{"type": "response.create"}')
            await until(socket, seen)
            socket.transport.abort()

    async def main() -> None:
        await asyncio.gather(*(vanish() for _ in range(4)))

    asyncio.run(main())
    assert gone(hub)


def test_clients_that_close_are_let_go(hub: Hub, url: str) -> None:
    async def main() -> None:
        async with connect(url, proxy=None, subprotocols=["realtime"]) as socket:  # type: ignore[list-item]  # websockets has a type of its own for names
            assert socket.subprotocol == "realtime"
            await socket.send('{"type": "response.create"}')
            await until(socket, "response.output_audio.delta")
            await socket.close(1000)
            with pytest.raises(ConnectionClosed):
                await until(socket, "never")

    asyncio.run(main())
    assert gone(hub)


def test_the_published_client(hub: Hub, url: str) -> None:
    omni: FakeOmni = hub.omni  # type: ignore[assignment]  # a stand-in
    omni.scripts = [[TextDelta("Hello "), chunk(300), TextDelta("there."), done()]]

    async def main() -> None:
        http = DefaultAsyncHttpxClient(trust_env=False)
        base = url.partition("/realtime")[0]
        async with (
            AsyncOpenAI(api_key="-", websocket_base_url=base, http_client=http) as client,
            client.realtime.connect(model=MODEL) as connection,
        ):
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}
            )
            await connection.response.create(response={"metadata": {"k": "v"}})
            sound, text = b"", ""
            async with asyncio.timeout(WAIT):
                async for event in connection:
                    match event.type:
                        case "response.output_audio.delta":
                            sound += b64decode(event.delta)
                        case "response.output_audio_transcript.delta":
                            text += event.delta
                        case "response.done":
                            assert event.response.status == "completed" and event.response.metadata == {"k": "v"}
                            break
                        case "error":
                            raise AssertionError(event)
            assert text == "Hello there." and len(sound) == 300 * 48

    asyncio.run(main())


def test_many_at_once_each_get_their_own(hub: Hub, url: str) -> None:
    omni: FakeOmni = hub.omni  # type: ignore[assignment]  # a stand-in
    omni.scripts = [[TextDelta("Yes."), chunk(200), done()]] * 40

    async def talk(name: str) -> None:
        async with connect(url, proxy=None) as socket:
            for turn in range(2):
                content = [{"type": "input_text", "text": f"{name} {turn}"}]
                item = {"id": f"{name}_{turn}", "type": "message", "role": "user", "content": content}
                await socket.send(orjson.dumps({"type": "conversation.item.create", "item": item}).decode())
                await socket.send(
                    orjson.dumps({"type": "response.create", "response": {"metadata": {"name": name}}}).decode()
                )
                over = await until(socket, "response.done")
                assert over["response"]["metadata"] == {"name": name} and over["response"]["status"] == "completed"
            await socket.send(orjson.dumps({"type": "conversation.item.retrieve", "item_id": f"{name}_0"}).decode())
            assert (await until(socket, "conversation.item.retrieved"))["item"]["content"][0]["text"] == f"{name} 0"

    async def main() -> None:
        await asyncio.gather(*(talk(f"client{i}") for i in range(12)))

    asyncio.run(main())
    heard = sorted(session.began[0]["content"][0]["text"] for session in omni.asked)
    assert heard == sorted(f"client{i} 0" for i in range(12) for _ in range(2))
