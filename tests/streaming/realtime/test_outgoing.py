"""What waits for a client: order, the end, and clients that do not read."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from omni.streaming.realtime import outgoing as module
from omni.streaming.realtime.outgoing import Outgoing


class Line:
    """A connection. free: it takes frames. ends: it can be closed."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.free, self.ends = asyncio.Event(), asyncio.Event()
        self.free.set()
        self.ends.set()

    async def send(self, text: str) -> None:
        await self.free.wait()
        self.sent.append(orjson.loads(text)["type"])

    async def close(self, code: int, reason: str) -> None:
        await self.ends.wait()
        self.closed = code, reason


def test_all_that_was_put_is_sent_before_the_end() -> None:
    async def main() -> None:
        line = Line()
        outgoing = Outgoing(line.send, line.close, 5)
        outgoing.put({"type": "a"})
        running = asyncio.create_task(outgoing.run())
        await outgoing.room()
        outgoing.put({"type": "b"})
        outgoing.end(1000, "bye")
        outgoing.put({"type": "never"})
        outgoing.end(1008, "later")
        await running
        assert line.sent == ["a", "b"] and line.closed == (1000, "bye")

    asyncio.run(main())


def test_room_is_there_when_the_client_has_read() -> None:
    async def main() -> None:
        line = Line()
        line.free.clear()
        outgoing = Outgoing(line.send, line.close, 5)
        running = asyncio.create_task(outgoing.run())
        for _ in range(3):
            outgoing.put({"type": "x" * 100})
        await outgoing.room(1000)
        waiting = asyncio.create_task(outgoing.room(150))
        await asyncio.sleep(0)
        assert not waiting.done()
        line.free.set()
        await waiting
        await outgoing.room()
        assert len(line.sent) == 3
        outgoing.end(1000, "")
        await running

    asyncio.run(main())


def test_who_does_not_read_is_dropped() -> None:
    async def main() -> None:
        for can_be_closed in (True, False):
            line = Line()
            line.free.clear()
            if not can_be_closed:
                line.ends.clear()
            outgoing = Outgoing(line.send, line.close, 0.02)
            outgoing.put({"type": "a"})
            outgoing.put({"type": "b"})
            async with asyncio.timeout(5):
                await outgoing.run()
            assert line.sent == [] and line.closed == ((1008, "slow_reader") if can_be_closed else None)

    asyncio.run(main())


def test_a_connection_that_is_gone_is_closed_quietly() -> None:
    async def main() -> None:
        line = Line()

        async def gone(code: int, reason: str) -> None:
            raise RuntimeError("the client was the first")

        outgoing = Outgoing(line.send, gone, 5)
        outgoing.end(1008, "")
        await outgoing.run()

    asyncio.run(main())


def test_no_client_is_sent_more_than_so_much_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RATE", 100_000)
    monkeypatch.setattr(module, "BURST", 50_000)

    async def main() -> float:
        line = Line()
        outgoing = Outgoing(line.send, line.close, 5)
        for _ in range(7):
            outgoing.put({"type": "a", "audio": "x" * 10_000})
        outgoing.end(1000, "bye")
        began = asyncio.get_running_loop().time()
        await outgoing.run()
        assert len(line.sent) == 7
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(main()) > 0.19
