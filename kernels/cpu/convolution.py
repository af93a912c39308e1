"""Transposed convolution as one product for all taps. Contract: `kernels/convolution.py`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LARGE = 8
"""Times as many weights as samples to be made, from which on torch's own way takes up to seven times as long: it sorts the
weights anew at each call."""


def pays(x: Tensor, weight: Tensor, rate: int) -> bool:
    return x.device.type == "cpu" and weight.numel() >= LARGE * x.shape[0] * weight.shape[1] * x.shape[2] * rate


def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    (B, _, T), (_, O, K) = x.shape, weight.shape
    parts, cut = -(-K // rate), (K - rate) // 2
    taps = (weight.flatten(1).t() @ x).view(B, O, K, T)
    taps = F.pad(taps, (0, 0, 0, parts * rate - K)).unflatten(2, (parts, rate))  # [B, O, parts, rate, T]
    y = x.new_zeros(B, O, T + parts - 1, rate)
    if bias is not None:
        y += bias[:, None, None]
    for i in range(parts):
        y[:, :, i : i + T] += taps[:, :, i].mT
    return y.flatten(2)[..., cut : cut + rate * T].contiguous()
