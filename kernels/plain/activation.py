"""Plain activations. Contracts: `kernels/activation.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def up_snake_down(x: Tensor, alpha: Tensor, beta: Tensor, taps: Tensor) -> Tensor:
    C = x.shape[1]
    kernel = taps.expand(C, 1, -1)
    up = F.conv_transpose1d(F.pad(x, (5, 5), mode="replicate"), kernel, stride=2, groups=C)
    up = 2 * up[..., 15:-15]  # [B, C, 2 T]
    alpha, beta = alpha.exp()[:, None], beta.exp()[:, None]
    up = up + torch.sin(up * alpha).square() / (beta + 1e-9)
    return F.conv1d(F.pad(up, (5, 6), mode="replicate"), kernel, stride=2, groups=C)  # [B, C, T]
