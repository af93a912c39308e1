"""What a stage should reach against transformers or llama.cpp, by hardware and shape."""

from __future__ import annotations

from collections.abc import Mapping

from omni.bench.report import NOTHING
from omni.evaluation.evaluate import Mark

LINEAR = Mark(at_most=3.3)
"""Of three times the length; what any length costs alike makes the growth smaller, which is no fault."""
NO_SLOWER = Mark(at_least=0.97)
"""Within what two readings of one program differ by."""

CPU_3B = {
    "thinker decode": Mark(at_least=1.2),
    "thinker decode int8": Mark(at_least=1.8),
    "thinker decode int4": Mark(at_least=2.6),
    "thinker prefill": Mark(at_least=1.3),
    "thinker prefill int8": Mark(at_least=1.3),
    "audio tower": NO_SLOWER,
    "vision tower": NO_SLOWER,
    "flow matching": Mark(at_least=2.5),
    "flow matching, bfloat16": Mark(at_least=5),
    "flow matching, int8": Mark(at_least=5),
    "flow matching, long, bfloat16": Mark(at_least=10),
    "flow matching, long, int8": Mark(at_least=10),
    "wave": Mark(at_least=2.5),
    "audio tower, 3 x as long": LINEAR,
    "voice, 3 x as long": LINEAR,
}
LLAMA_CPP_3B = {"decode int4": Mark(at_least=1.15), "decode int8": Mark(at_least=1.15), "prefill int8": Mark(at_least=1.5)}
"""Of a CPU, beside that peer."""
GPU_3B = {
    "thinker decode": Mark(at_least=7),
    "thinker prefill": Mark(at_least=1.15),
    "talker step": Mark(at_least=30),
    "audio tower": Mark(at_least=2.3),
    "vision tower": Mark(at_least=3),
    "flow matching": Mark(at_least=12),
    "flow matching, bfloat16": Mark(at_least=24),
    "wave": Mark(at_least=11),
    "audio tower, 3 x as long": LINEAR,
    "voice, 3 x as long": LINEAR,
}
MARKS: Mapping[tuple[str, str], Mapping[str, Mark]] = {
    ("cpu", "3b"): CPU_3B | LLAMA_CPP_3B,
    ("H200", "3b"): GPU_3B,
    ("H100", "3b"): GPU_3B,
}
"""(`report.hardware`, shape) -> row -> mark."""


def mark(hardware: str, shape: str, name: str) -> Mark:
    """What a row should reach; without a bound where nothing is set for this hardware and shape."""
    return MARKS.get((hardware, shape), {}).get(name, NOTHING)
