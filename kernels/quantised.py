"""Weights of linear layers in eight and four bits, and in the order in which a CPU reads them best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.activation import gelu_tanh
from omni.kernels.dispatch import twin
from omni.kernels.gemv import MAX_ROWS
from omni.kernels.linear import linear_gelu
from omni.kernels.native import linear as cpu
from omni.kernels.plain import quantised as plain

GROUP = 32
"""Inputs that share a scale and a zero in four bits."""
MIDDLE = 8
"""What is taken from four bits, so that they count from -8 to 7."""


@dataclass(frozen=True)
class Int8:
    """w[o, c] = values[o, c] * scale[o].

    Attributes:
        values: int8 `[O, C]`, from -127 to 127.
        scale: float32 `[O]`.
    """

    values: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes


@dataclass(frozen=True)
class Int4:
    """w[o, c] = (v - MIDDLE) * scale[o, g] + zero[o, g] with v from 0 to 15, and g the group that c is in.

    Attributes:
        pairs: uint8 `[O, C / 2]`, the even c in the low half. C is filled up to a multiple of GROUP with zeros.
        scale, zero: bfloat16 `[O, G]`; C / G is 32, 64, 128 or 256.
    """

    pairs: Tensor
    scale: Tensor
    zero: Tensor

    @property
    def nbytes(self) -> int:
        return self.pairs.nbytes + self.scale.nbytes + self.zero.nbytes


Weight: TypeAlias = "Tensor | Int8 | Int4 | cpu.Dense | cpu.Bytes | cpu.Nibbles"
"""What `multiply` takes for a weight; a tensor `[O, C]` is one in x's dtype."""


def quantise_int8(weight: Tensor) -> Int8:
    """Round `[O, C]` of any float dtype to 255 steps a row: no value moves by more than half a step, max|row| / 254."""
    return Int8(*plain.quantise_int8(weight))


def quantise_int4(weight: Tensor) -> Int4:
    """Round `[O, C]` to 16 steps in every group of GROUP inputs, from its least to its greatest.

    Scale and zero are rounded to bfloat16 before the values are, so that nothing else is lost later.
    """
    fill = -weight.shape[1] % GROUP
    values, scale, zero = plain.quantise_int4(F.pad(weight, (0, fill)), GROUP)
    return Int4(plain.join_pairs(values), scale, zero)


def from_values(values: Tensor, scale: Tensor, zeros: Tensor) -> Int4:
    """The weight (values - zeros) * scale of another maker.

    Args:
        values: uint8 `[O, C]`, from 0 to 15, C a multiple of GROUP.
        scale, zeros: `[O, G]`, C / G a multiple of GROUP. Scale and (MIDDLE - zeros) * scale are rounded to bfloat16.
    """
    scale, size = scale.float(), values.shape[1] // scale.shape[1]
    most = group_size(size)
    scale = scale.bfloat16().repeat_interleave(size // most, 1)
    zero = (MIDDLE - zeros).repeat_interleave(size // most, 1) * scale.float()
    return Int4(plain.join_pairs(values), scale, zero.bfloat16())


def group_size(inputs: int) -> int:
    """The largest group that is read fast and divides a group of so many inputs."""
    return next(size for size in (256, 128, 64, GROUP) if inputs % size == 0)


def dequantise(weight: Int8 | Int4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight `[O, C]` that is meant; in float32 exact for Int8, and rounded once for Int4."""
    if isinstance(weight, Int8):
        return plain.dequantise_int8(weight.values, weight.scale, dtype)
    return plain.dequantise_int4(weight.pairs, weight.scale, weight.zero, dtype)


def pack(weight: Tensor | Int8 | Int4) -> Weight:
    """The same weight in the order that this CPU multiplies fastest; as it is where there is none, and on a GPU.

    A plain tensor `[O, C]` gains where it is bfloat16, or float32 and wide.
    """
    if isinstance(weight, Tensor):
        return cpu.Dense.pack(weight) if cpu.Dense.fits(weight) else weight
    if isinstance(weight, Int8):
        return cpu.Bytes.pack(weight.values, weight.scale) if cpu.Bytes.fits(weight.values) else weight
    return cpu.Nibbles.pack(weight.pairs, weight.scale, weight.zero) if cpu.Nibbles.fits(weight.pairs) else weight


def gains(dtype: torch.dtype, device: torch.device, inputs: int) -> bool:
    """Whether `pack` does something to plain weights of that dtype and so many inputs there."""
    return cpu.Dense.fits(torch.empty(0, inputs, dtype=dtype, device=device))


def gains_bytes(device: torch.device) -> bool:
    """Whether many rows are multiplied faster with weights of eight bits than with any float ones there."""
    return cpu.Bytes.fits(torch.empty(0, dtype=torch.int8, device=device))


def multiply(x: Tensor, weight: Weight, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """x @ w.T + bias, `[N, O]` in x's dtype, and GELU by tanh of it where asked for, for x `[N, C]` in float32 or bfloat16.

    Packed weights take a shorter way where the number of rows makes it pay (`cpu.POLICY`): with Int8 a row of x is rounded
    to 16 bits, or to 8 where there are many; with Int4 x is rounded to bfloat16 where there are few. On a GPU up to
    `MAX_ROWS` rows have a kernel of their own; for more the weight is widened, a part at a time.
    """
    if isinstance(weight, Tensor):
        return linear_gelu(x, weight, bias) if gelu else F.linear(x, weight, bias)
    if isinstance(weight, (cpu.Dense, cpu.Bytes)):
        return weight.multiply(x, bias, gelu=gelu)
    way = twin(plain, x) if len(x) <= MAX_ROWS else plain
    if isinstance(weight, Int8):
        y = way.multiply_int8(x, weight.values, weight.scale)
    elif isinstance(weight, Int4):
        y = way.multiply_int4(x, weight.pairs, weight.scale, weight.zero)
    else:
        y = weight.multiply(x)
    if bias is not None:
        y += bias
    return gelu_tanh(y) if gelu else y
