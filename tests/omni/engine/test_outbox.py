"""Events between two threads, and between a thread and an event loop."""

from __future__ import annotations

import asyncio
import threading

from omni import TextDelta
from omni.engine.outbox import Outbox


def test_they_come_in_order_and_room_is_told_once() -> None:
    outbox, drained = Outbox(size=2), list[int]()
    outbox.drained = lambda: drained.append(outbox.num_waiting)
    for i in range(3):  # a step that has begun may tell more than fits
        outbox.put(i, TextDelta(str(i)))
    assert outbox.full
    assert [outbox.get()[0] for _ in range(3)] == [0, 1, 2]
    assert drained == [1]


def test_a_reader_waits_for_a_writer() -> None:
    outbox = Outbox()
    threading.Timer(0.05, outbox.put, (7, TextDelta("late"))).start()
    assert outbox.get() == (7, TextDelta("late"))


def test_an_event_loop_goes_on_while_it_waits() -> None:
    outbox, ticks = Outbox(), list[int]()

    async def tick() -> None:
        for i in range(3):
            ticks.append(i)
            await asyncio.sleep(0.01)
        threading.Thread(target=write).start()

    def write() -> None:
        for i in range(3):
            outbox.put(i, TextDelta(""))

    async def read() -> list[int]:
        task = asyncio.create_task(tick())
        keys = [(await outbox.aget())[0] for _ in range(3)]
        await task
        return keys

    assert asyncio.run(read()) == [0, 1, 2]
    assert ticks == [0, 1, 2]
