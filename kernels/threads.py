"""Threads of a CPU: whoever waits sleeps, so that a busy neighbour costs its share and no more."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache

import torch

_HERE = threading.local()


def num_threads() -> int:
    """Threads that a kernel in C may take in the calling thread: as many as torch, but for `keep_torch_alone`."""
    kept: int | None = getattr(_HERE, "kept", None)
    return torch.get_num_threads() if kept is None else kept


def keep_torch_alone() -> None:
    """Have torch's own operations use no thread but the calling one in it, from now on; kernels in C keep theirs.

    Where operations take microseconds, waking others and waiting for them takes longer than they do.
    """
    if (openmp := _openmp()) and getattr(_HERE, "kept", None) is None:
        _HERE.kept = torch.get_num_threads()
        openmp.omp_set_num_threads(1)


@cache
def let_openmp_sleep() -> None:
    """Have OpenMP's workers sleep where they wait, in the whole process and whatever was imported first.

    libgomp's workers spin at barriers for milliseconds, and with OMP_WAIT_POLICY=active for minutes, unless the process has
    more of them than there are cores; then for microseconds. A worker whose core a neighbour has makes all others spin: an
    answer of a second took thirty. So some more are made here, which sleep for good.
    """
    openmp = _openmp()
    if openmp is None:
        return
    ready = threading.Event()
    nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)

    def hold() -> None:
        openmp.GOMP_parallel(nothing, None, openmp.omp_get_num_procs() + 1, 0)
        ready.set()
        threading.Event().wait()  # workers belong to the thread that took them

    threading.Thread(target=hold, name="omni-openmp", daemon=True).start()
    ready.wait()


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, if it is GNU's."""
    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):
        return None
    return library if hasattr(library, "GOMP_parallel") else None
