"""Linear layers with weights as they were loaded, in few bits, or in the order that a CPU multiplies fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.dispatch import dispatch, twin
from omni.kernels.plain import linear as plain
from omni.kernels.quantised import Int4, Int8, Packed, Weight, dequantise


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """x @ w.T + bias, `[N, O]` in x's dtype, and GELU by tanh of it where asked for, for x `[N, C]` in float32 or bfloat16.

    The sum is float32 or better; it may be rounded to the dtype before bias and activation or not. On a CPU with packed
    Int8 a row of x is rounded to 16 bits, or to 8 where there are many; with packed Int4 x is rounded to bfloat16 where
    there are few.
    """
    if isinstance(weight, Packed):
        return weight.linear(x, bias, gelu=gelu)
    return dispatch(plain.linear, x, weight, bias, gelu)


def pack(weight: Tensor | Int8 | Int4) -> Weight:
    """The same weight in the order that this CPU multiplies fastest; as it is where there is none, and on a GPU.

    A plain tensor `[O, C]` gains where it is bfloat16, or on AMD wide float32.
    """
    return dispatch(plain.pack, weight)


def gains(dtype: torch.dtype, device: torch.device, inputs: int) -> bool:
    """Whether `pack` does something to plain weights of that dtype and so many inputs there."""
    return twin(plain.pack, torch.empty(0, inputs, dtype=dtype, device=device)) is not plain.pack


def gains_int8(device: torch.device) -> bool:
    """Whether many rows are multiplied faster with weights of eight bits than with any float ones there."""
    empty = Int8(torch.empty(0, 0, dtype=torch.int8, device=device), torch.empty(0, device=device))
    return twin(plain.pack, empty) is not plain.pack


def linear_in_blocks(x: Tensor, weight: Int8 | Int4, bias: Tensor | None) -> Tensor:
    """x @ w.T + bias for twins, by some rows of the weight at a time, which are all that is dequantised."""
    out = x.new_empty(len(x), weight.num_outputs)
    for rows, block in weight.blocks():
        w = dequantise(block, x.dtype)[:, : x.shape[1]]
        out[:, rows] = F.linear(x, w, None if bias is None else bias[rows])
    return out
