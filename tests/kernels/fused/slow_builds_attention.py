"""What of attention is not built every time."""

from __future__ import annotations

import functools

import torch

from tests.kernels.aot import Build
from tests.kernels.fused.builds_attention import EVERY, OFTEN

BUILDS: dict[str, Build] = {
    name: functools.partial(build, torch.bfloat16) for name, build in EVERY.items() if name not in OFTEN
}
