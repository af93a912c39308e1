"""Arithmetic: tensors in, tensors out. Nothing here knows a model or a request.

Each operation has one contract (`kernels/X.py`), one plain truth in torch (`kernels/plain/X.py`) and at most one twin for
each kind of device under the same names: in Triton (`kernels/fused/X.py`), and for a CPU (`kernels/native/X.py`, in C
`native/X.c`). `kernels/dispatch.py` says which of them runs.

Dimension letters, used in every room:

    N  packed tokens          B  sequences             T  time steps or frames
    H  query heads            K  key/value heads       D  head size
    C  channels               L  layers                P  tokens in a block
    A  position axes          Q  codebooks             S  samples

Bool tensors are named for what is true. Lengths end in `_len`, counts start with `num_`, cumulative offsets with `cu_`.
Sequences are packed, `[N, H, D]` with `Segments`; a batch dimension stands only where a model truly has one.
"""

from omni.kernels.activation import gelu_tanh, silu_mul, up_snake_down
from omni.kernels.attention import attend, attend_paged
from omni.kernels.block_table import BlockTable
from omni.kernels.convolution import same_conv, up_conv
from omni.kernels.norm import add_rms_norm, layer_norm, rms_norm
from omni.kernels.rotary import rotary_table, rotate, rotate_write
from omni.kernels.segments import BlockMask, Segments

__all__ = [
    "BlockMask",
    "BlockTable",
    "Segments",
    "add_rms_norm",
    "attend",
    "attend_paged",
    "gelu_tanh",
    "layer_norm",
    "rms_norm",
    "rotary_table",
    "rotate",
    "rotate_write",
    "same_conv",
    "silu_mul",
    "up_conv",
    "up_snake_down",
]
