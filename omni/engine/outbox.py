"""Events on their way from the engine's thread to whoever reads them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from omni.events import Event, Failed

SIZE = 64


Told: TypeAlias = Event | Failed


class Outbox:
    """A bounded queue of (request's key, event), of one reader; requests whose outbox is full stand still.

    Attributes:
        drained: called from the reader's thread once a full outbox has room again.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.drained: Callable[[], None] = _nothing
        self._size = size
        self._told: deque[tuple[int, Told]] = deque()
        self._ready = threading.Condition()
        self._notify: Callable[[], object] | None = None

    @property
    def full(self) -> bool:
        return len(self._told) >= self._size

    @property
    def num_waiting(self) -> int:
        """Events that nobody has read yet."""
        return len(self._told)

    def put(self, key: int, event: Told) -> None:
        """Never waits: a step that has begun may tell a little more than fits."""
        with self._ready:
            self._told.append((key, event))
            self._ready.notify()
            notify, self._notify = self._notify, None
        if notify:
            with suppress(RuntimeError):  # the reader's event loop is gone
                notify()

    def get(self) -> tuple[int, Told]:
        """The next event; waits for it."""
        with self._ready:
            while not self._told:
                self._ready.wait()
            was_full = self.full
            told = self._told.popleft()
            has_room = was_full and not self.full
        if has_room:
            self.drained()
        return told

    async def aget(self) -> tuple[int, Told]:
        """As `get`, for one reader in an event loop."""
        while True:
            with self._ready:
                if self._told:
                    break
                loop, arrived = asyncio.get_running_loop(), asyncio.Event()
                self._notify = partial(loop.call_soon_threadsafe, arrived.set)
            await arrived.wait()
        return self.get()


def _nothing() -> None:
    pass
