"""The thread that owns the device."""

from __future__ import annotations

import threading

from omni.engine.worker import Worker


class Waits(Worker):
    """Is nudged while it finds nothing to do, and before it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.stepped_again = 0, threading.Event()

    def _step(self) -> bool:
        self.steps += 1
        if self.steps == 1:
            self._nudge()
        else:
            self.stepped_again.set()
        return False

    def _is_idle(self) -> bool:
        return False


def test_a_nudge_before_the_wait_is_not_lost() -> None:
    worker = Waits()
    worker.call(lambda: None)
    try:
        assert worker.stepped_again.wait(5)
    finally:
        worker.stop()


def test_a_nudge_starts_no_thread() -> None:
    worker = Waits()
    worker._nudge()
    assert worker._thread is None
