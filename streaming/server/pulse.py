"""Whether the engine still answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni import Omni

SECONDS = 5.0
"""In which the engine has to take a message; it does so between two steps."""


class Pulse:
    """Asks the engine for a sign of life, once for all who want to know at the same time.

    The thread is its own: threads that read media may all be busy without anything being wrong.
    """

    def __init__(self, omni: Omni, seconds: float = SECONDS) -> None:
        self._omni, self._seconds = omni, seconds
        self._thread = ThreadPoolExecutor(1, "pulse")
        self._asked: Future[bool] | None = None

    async def beats(self) -> bool:
        """Whether the engine answered in time."""
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(self._omni.ping, self._seconds)
        return await asyncio.shield(asyncio.wrap_future(self._asked))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
