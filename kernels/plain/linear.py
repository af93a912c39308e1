"""Plain linear layers. Contracts: `kernels/linear.py`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from omni.kernels.plain.activation import gelu_tanh
from omni.kernels.quantised import Int4, Int8, Weight, dequantise


def linear(x: Tensor, weight: Tensor | Int8 | Int4, bias: Tensor | None, gelu: bool) -> Tensor:
    if not isinstance(weight, Tensor):
        weight = dequantise(weight, x.dtype)[:, : x.shape[1]]
    y = F.linear(x, weight, bias)
    return gelu_tanh(y) if gelu else y


def pack(weight: Tensor | Int8 | Int4) -> Weight:
    return weight
