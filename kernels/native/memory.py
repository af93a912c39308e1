"""How fast this CPU's memory is read."""

from __future__ import annotations

from torch import Tensor

from omni.kernels.native import build

STREAMS = (1, 4, 8, 16)
"""Places that a thread reads at once; which is fastest depends on the CPU."""


def read(x: Tensor, streams: int, num_threads: int) -> int | None:
    """All 32-bit words of x, folded by exclusive or; None where nothing is compiled. x holds whole mebibytes."""
    compiled = build.library()
    if compiled is None:
        return None
    assert x.is_contiguous() and x.nbytes % (1 << 20) == 0 and streams in STREAMS
    return int(compiled.read_memory(x.data_ptr(), x.nbytes >> 20, streams, num_threads))
