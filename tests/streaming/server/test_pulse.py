"""Whether the engine still answers."""

from __future__ import annotations

import asyncio

from tests.streaming.doubles import hub_of
from tests.streaming.running import Still


def test_many_who_ask_at_once_ask_the_engine_once() -> None:
    omni = Still()
    asked = 0

    def ping(timeout: float) -> bool:
        nonlocal asked
        asked += 1
        omni.begun.wait(5)
        return True

    omni.ping = ping  # type: ignore[method-assign]  # a stand-in
    hub = hub_of(omni)

    async def ask() -> list[bool]:
        work = [asyncio.create_task(hub.pulse.beats()) for _ in range(50)]
        await asyncio.sleep(0)
        work[0].cancel()  # who leaves takes nothing from the others
        await asyncio.sleep(0)
        omni.begun.set()
        return await asyncio.gather(*work[1:])

    assert asyncio.run(ask()) == [True] * 49
    assert asked == 1
    hub.close()
