"""A lock that serves in order."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """Granted in the order it was asked for, so that no stream starves another; `threading.Lock` promises no order."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # interrupted while waiting: leave the queue, or hand on what was granted meanwhile
            with self._mutex:
                waits = gate in self._waiting
                if waits:
                    self._waiting.remove(gate)
            if not waits:
                self.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
