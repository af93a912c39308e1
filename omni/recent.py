"""Values that were dear to make, kept for as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass
class _Making(Generic[V]):
    """A value that is being made, and how many wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    num_waiting: int = 0
    value: V | None = None


class Recent(Generic[V]):
    """Values by a digest of what they were made from; the least recently used go first. For any number of threads.

    Args:
        max_bytes: that all values may take together; 0 keeps none.

    Attributes:
        num_bytes: that they take now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._making: dict[bytes, _Making[V]] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def get(self, key: bytes) -> V | None:
        """The value, which counts as used; None where it is not here."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def once(self, key: bytes, make: Callable[[], V], size: Callable[[V], int]) -> tuple[V, bool]:
        """The value, and whether this call made it: who asks while it is being made waits for that.

        Where making it fails, the next one who waits tries for himself.
        """
        with self._lock:
            making = self._making.setdefault(key, _Making())
            making.num_waiting += 1
        try:
            with making.lock:
                known = self.get(key) if making.value is None else making.value
                if known is not None:
                    return known, False
                value = making.value = make()
                self.put(key, value, size(value))
                return value, True
        finally:
            with self._lock:
                making.num_waiting -= 1
                if not making.num_waiting:
                    del self._making[key]

    def put(self, key: bytes, value: V, num_bytes: int) -> None:
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value, num_bytes
            self.num_bytes += num_bytes
            while self.num_bytes > self.max_bytes:
                _, (_, gone) = self._values.popitem(last=False)
                self.num_bytes -= gone

    def forget(self) -> None:
        with self._lock:
            self._values.clear()
            self.num_bytes = 0
