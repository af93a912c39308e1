"""Tensors of a GGUF in blocks: to floats by the `gguf` package, and four bits as they are into what kernels read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from omni.errors import CheckpointError
from omni.kernels.plain.quantised import MIDDLE
from omni.kernels.quantised import GROUP, Int4, from_values, group_size
from omni.loading.gguf import Form

KEPT = "Q4_0"
"""The form that is kept as it is, but for its scales, which are rounded from float16 to bfloat16."""


def dequantise(raw: Tensor, form: Form) -> Tensor:
    """Float32 values of whole blocks, uint8 `[n * form.nbytes]`; what the package gives them."""
    try:  # it is optional
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as e:
        raise CheckpointError(f"weights in {form.name} need the gguf package: pip install 'omni-runtime[gguf]'") from e
    rows = raw.view(1, -1).numpy()  # one row, since the package goes from some rows to the next
    return torch.from_numpy(dequantize(rows, GGMLQuantizationType[form.name])).view(-1)


class BlockPart(nn.Module):
    """A layer of a GGUF in Q4_0, on meta until it is loaded.

    Attributes:
        weight: uint8 `[O, C / 32 * 18]`, blocks of a float16 scale and 32 values, the second half of them in the high bits.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        empty = torch.empty(outputs, inputs // GROUP * 18, dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)

    @property
    def kept_bytes(self) -> int:
        outputs, inputs = len(self.weight), self.weight.shape[1] // 18 * GROUP
        return outputs * (inputs // 2 + 4 * inputs // group_size(GROUP))

    @staticmethod
    def joined(parts: Sequence[BlockPart]) -> Iterator[tuple[None, Int4]]:
        """One weight of all parts, whose inputs are in order."""
        blocks = torch.cat([part.weight for part in parts]).unflatten(1, (-1, 18))  # [O, G, 18]
        scale = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
        if not bool(scale.isfinite().all()):
            raise CheckpointError("a scale of the GGUF is no finite number; fetch it again")
        halves = blocks[..., 2:]
        values = torch.cat([halves & 15, halves >> 4], -1).flatten(1)  # [O, C]
        yield None, from_values(values, scale, torch.full_like(scale, MIDDLE, dtype=torch.int32))
