"""Attention in float32, whose products are unrolled and take long to build."""

from __future__ import annotations

import functools

import torch

from tests.kernels.aot import Build
from tests.kernels.fused.builds_attention import EVERY, OFTEN

BUILDS: dict[str, Build] = {name: functools.partial(EVERY[name], torch.float32) for name in (*OFTEN, "attend: DiT, back 1")}
