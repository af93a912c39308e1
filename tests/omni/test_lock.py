"""The lock that serves in order."""

from __future__ import annotations

import threading
import time

from omni.engine.lock import FairLock


def test_it_is_granted_in_the_order_it_was_asked_for() -> None:
    lock, order = FairLock(), list[int]()

    def enter(name: int) -> None:
        with lock:
            order.append(name)

    with lock:
        threads = [threading.Thread(target=enter, args=(i,)) for i in range(8)]
        for i, thread in enumerate(threads):
            thread.start()
            while len(lock._waiting) <= i:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_one_at_a_time() -> None:
    lock, inside, most = FairLock(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside, lock._held) == (1, 0, False)
