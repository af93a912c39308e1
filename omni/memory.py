"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Have the allocator return what it keeps of freed memory; for quiet moments, since others wait for it meanwhile.

    glibc keeps what was freed below something that is still held, so that a process which read large media stays as large as
    it once was. Elsewhere nothing is done.
    """
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none
