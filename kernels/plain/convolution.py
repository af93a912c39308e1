"""Plain convolution. Contract: `kernels/convolution.py`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, plus: Tensor | None) -> Tensor:
    y = F.conv1d(x, weight, bias, padding=dilation * (weight.shape[2] // 2), dilation=dilation)
    return y if plus is None else plus + y


def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    return F.conv_transpose1d(x, weight, bias, stride=rate, padding=(weight.shape[2] - rate) // 2)
