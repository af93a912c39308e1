"""torch's own layers, where they cost more than they need."""

from __future__ import annotations

from torch import Tensor, nn

from omni.kernels.linear import linear


class Linear(nn.Linear):
    """Multiplies by `linear`: few rows of it are faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) if x.dim() == 2 else super().forward(x)


class Embedding(nn.Embedding):
    """Draws no numbers on meta, for which torch imports its compiler in seconds."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()
