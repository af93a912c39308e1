"""Values that were made lately, for several threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from omni.recent import Recent


@pytest.mark.parametrize("max_bytes", [100, 0])
def test_what_several_ask_for_at_once_is_made_once(max_bytes: int) -> None:
    recent, calls, going = Recent[str](max_bytes), list[int](), threading.Event()

    def make() -> str:
        calls.append(1)
        assert going.wait(20)
        return "made"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(recent.once, b"key", make, len) for _ in range(4)]
        while b"key" not in recent._making or recent._making[b"key"].num_waiting < 4:
            pass
        going.set()
        found = [each.result() for each in asked]
    assert [value for value, _ in found] == ["made"] * 4 and sum(is_new for _, is_new in found) == len(calls) == 1
    assert not recent._making and (b"key" in recent) == bool(max_bytes)


def test_who_waits_tries_for_himself_where_making_it_failed() -> None:
    recent, calls, going = Recent[str](100), list[int](), threading.Event()

    def make() -> str:
        assert going.wait(20)
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("broken")
        return "made"

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(recent.once, b"key", make, len) for _ in range(2)]
        while b"key" not in recent._making or recent._making[b"key"].num_waiting < 2:
            pass
        going.set()
        faults = [each.exception(20) for each in asked]
    assert sum(fault is None for fault in faults) == 1 and len(calls) == 2
    assert recent.once(b"key", make, len) == ("made", False)
