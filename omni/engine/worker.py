"""One thread that owns the device, and whatever others tell it between two of its steps."""

from __future__ import annotations

import atexit
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar
from weakref import WeakSet

import torch

from omni.memory import give_back

T = TypeVar("T")
LINGER = 2.0
"""Seconds that the thread waits for more before it ends."""


class Worker(ABC):
    """A thread that takes messages, then steps for as long as something can be done; it lives while there is work."""

    def __init__(self) -> None:
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    @abstractmethod
    def _step(self) -> bool:
        """Do what is next; whether there was anything."""

    @abstractmethod
    def _is_idle(self) -> bool:
        """Whether nothing is left that could wait for a message."""

    def call(self, work: Callable[[], T]) -> T:
        """Have the thread do something between two steps, and wait for it."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as e:  # whoever waits gets it, whatever it is
                future.set_exception(e)

        self._post(do)
        return future.result()

    def answers(self, timeout: float) -> bool:
        """Whether the thread takes a message within so many seconds."""
        taken = threading.Event()
        self._post(taken.set)
        return taken.wait(timeout)

    def stop(self) -> None:
        """End the thread, whatever it was doing; nothing that waits is done."""
        thread = self._thread
        if thread:
            with self._wake:
                self._stopping = True
                self._wake.notify()
            thread.join()

    def _post(self, message: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="omni-engine", daemon=True)
                self._stopping = False
                _RUNNING.add(self)
                self._thread.start()
            self._wake.notify()

    def _nudge(self) -> None:
        """Something may be possible again; told even a thread that is just about to wait."""
        with self._wake:
            if self._thread:
                self._inbox.append(_nothing)
                self._wake.notify()

    def _start(self) -> None:  # noqa: B027
        """What a new thread does first; nothing, unless it is said otherwise."""

    @torch.inference_mode()
    def _loop(self) -> None:
        self._start()
        while True:
            with self._wake:
                messages = list(self._inbox)
                self._inbox.clear()
                if self._stopping:
                    self._thread = None
                    return
            for message in messages:
                message()
            if not self._step() and self._wait():
                give_back()  # nobody asks for anything
                return

    def _wait(self) -> bool:
        """Wait for a message or a nudge; whether the thread ends, since none has come."""
        with self._wake:
            if not self._inbox and not self._stopping:
                idle = self._is_idle()
                self._wake.wait(LINGER if idle else None)
                if idle and not self._inbox and not self._stopping:
                    self._thread = None
                    return True
        return False


def _nothing() -> None:
    """A message that only wakes."""


_RUNNING: WeakSet[Worker] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads inside torch while the interpreter goes down would crash it."""
    for worker in list(_RUNNING):
        worker.stop()
