"""Differentiable kernels for training a vocoder on a CPU, some four times as fast as the plain ones.

Without a C++ compiler, and on other devices, the plain ones are taken.
"""

from __future__ import annotations

import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import cpp_extension

from demos.small_model import BUILD
from omni.kernels import up_snake_down

FOLDER = BUILD / "vocoder_kernels"
FLAGS = ["-Ofast", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno"]
FEW = 16
"""Channels up to which convolutions go row by row."""


@cache
def _compiled() -> Any:
    """The extension; None without a compiler."""
    if not (shutil.which("g++") and shutil.which("ninja")):
        warnings.warn("g++ or ninja is missing, so training takes about four times as long", stacklevel=3)
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = str(Path(__file__).with_suffix(".cpp"))
    return cpp_extension.load("vocoder_kernels", [source], extra_cflags=FLAGS, build_directory=str(FOLDER))


class _Snake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha, beta, taps)
        return _compiled().snake_forward(x, alpha, beta, taps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_compiled().snake_backward(*grads, *ctx.saved_tensors), None)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.biased = dilation, bias is not None
        return _compiled().conv_forward(x, weight, weight.new_empty(0) if bias is None else bias, dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight = _compiled().conv_backward(*grads, *ctx.saved_tensors, ctx.dilation)
        return dx, dweight, grads[0].sum((0, 2)) if ctx.biased else None, None


def snake(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    """`omni.kernels.up_snake_down`, with a fast backward."""
    if x.device.type != "cpu" or _compiled() is None:
        return up_snake_down(x, alpha, beta, taps)
    y: Tensor = _Snake.apply(x, alpha, beta, taps)  # type: ignore[no-untyped-call]  # torch gives Function.apply no types
    return y


def conv(module: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution with stride 1 that keeps the length."""
    if x.device.type != "cpu" or max(module.in_channels, module.out_channels) > FEW or _compiled() is None:
        return module(x)
    y: Tensor = _Conv.apply(x, module.weight, module.bias, module.dilation[0])  # type: ignore[no-untyped-call]  # torch gives Function.apply no types
    return y
