"""Activations for a CPU. Contracts: `kernels/activation.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from omni.kernels.dispatch import supports
from omni.kernels.native import build
from omni.kernels.threads import num_threads


@supports(lambda x: x.dtype == torch.float32)
def gelu_tanh(x: Tensor) -> Tensor:
    # (1 + tanh u) / 2 = sigmoid(2 u), and a CPU's sigmoid costs a sixth of its tanh
    two_root = 2 * (2 / torch.pi) ** 0.5
    u = (x * x).mul_(0.044715 * two_root).add_(two_root)
    return torch.sigmoid(u * x) * x


@supports(build.takes_halves)
def silu_mul(gate_up: Tensor) -> Tensor:
    """In C."""
    compiled, I = build.library(), gate_up.shape[-1] // 2
    assert compiled is not None
    y = gate_up.new_empty(*gate_up.shape[:-1], I)
    compiled.step_gate(gate_up.data_ptr(), y.data_ptr(), y.numel() // I, I, gate_up.dtype == torch.bfloat16, num_threads())
    return y


@supports(build.takes)
def up_snake_down(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    """In C."""
    (B, C, T), compiled = x.shape, build.library()
    assert compiled is not None
    assert (alpha.shape, beta.shape, taps.shape) == ((C,), (C,), (12,))
    y = torch.empty_like(x)
    pointers = (each.data_ptr() for each in (x, alpha, beta, taps, y))
    compiled.up_snake_down(*pointers, B, C, T, num_threads())
    return y
