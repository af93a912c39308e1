"""Plain linear layer with an activation. Contract: `kernels/linear.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.activation import gelu_tanh

SHORT = 128
"""Float32 rows up to this length are summed by oneDNN as well as by the BLAS that torch takes; longer ones lose accuracy."""


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _onednn_may(x, weight):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
        return y
    return gelu_tanh(F.linear(x, weight, bias))


def _onednn_may(x: Tensor, weight: Tensor) -> bool:
    """It knows neither gradients nor tensors of two dtypes."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and x.shape[-1] <= SHORT))
        and torch.backends.mkldnn.is_available()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )
