"""Weights of linear layers in eight and four bits, and rows of activations in eight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.dispatch import dispatch
from omni.kernels.plain import quantised as plain
from omni.kernels.plain.quantised import MIDDLE

GROUP = 32
"""Inputs that share a scale and a zero in four bits."""
QUANTISED = 1 << 18
"""Weights that are quantised at once, to stay in a cache."""
DEQUANTISED = 1 << 20
"""Weights that twins dequantise at once; bounds the memory beside them."""


class _Quantised:
    """What weights of either kind tell of their tensors, the first of which has a row for each output."""

    @property
    def is_cpu(self) -> bool:
        return self._tensors[0].is_cpu

    @property
    def is_cuda(self) -> bool:
        return self._tensors[0].is_cuda

    @property
    def num_outputs(self) -> int:
        return len(self._tensors[0])

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())


@dataclass(frozen=True)
class Int8(_Quantised):
    """w[o, c] = values[o, c] * scale[o].

    Attributes:
        values: int8 `[O, C]`, from -127 to 127.
        scale: float32 `[O]`.
    """

    values: Tensor
    scale: Tensor

    def blocks(self) -> Iterator[tuple[slice, Int8]]:
        """All rows, in runs to be dequantised at once."""
        for rows in row_blocks(len(self.values), self.values.shape[1], DEQUANTISED):
            yield rows, Int8(self.values[rows], self.scale[rows])


@dataclass(frozen=True)
class Int4(_Quantised):
    """w[o, c] = (v - MIDDLE) * scale[o, g] + zero[o, g] with v from 0 to 15, and g the group that c is in.

    Attributes:
        pairs: uint8 `[O, C / 2]`, the even c in the low half. C is filled up to a multiple of GROUP with zeros.
        scale, zero: bfloat16 `[O, G]`; C / G is 32, 64, 128 or 256.
    """

    pairs: Tensor
    scale: Tensor
    zero: Tensor

    def blocks(self) -> Iterator[tuple[slice, Int4]]:
        """All rows, in runs to be dequantised at once."""
        for rows in row_blocks(len(self.pairs), 2 * self.pairs.shape[1], DEQUANTISED):
            yield rows, Int4(self.pairs[rows], self.scale[rows], self.zero[rows])


class Packed:
    """A weight in an order that only the twin knows which made it; each overrides both of these.

    No abstract class: asking whether a weight is one would cost a step more.
    """

    @property
    def nbytes(self) -> int:
        raise NotImplementedError

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """As `kernels.linear.linear` with this weight."""
        raise NotImplementedError


Weight: TypeAlias = Tensor | Int8 | Int4 | Packed
"""Of a linear layer; a tensor `[O, C]` is one in its input's dtype."""


def quantise_int8(weight: Tensor) -> Int8:
    """Round `[O, C]` of any float dtype to 255 steps a row: no value moves by more than half a step, max|row| / 254."""
    return Int8(*_in_blocks(lambda rows: dispatch(plain.quantise_int8, rows), weight))


def quantise_int4(weight: Tensor) -> Int4:
    """Round `[O, C]` to 16 steps in every group of GROUP inputs, from its least to its greatest.

    Scale and zero are rounded to bfloat16 before the values are, so that nothing else is lost later.
    """
    fill = -weight.shape[1] % GROUP
    values, scale, zero = _in_blocks(lambda rows: dispatch(plain.quantise_int4, rows, GROUP), F.pad(weight, (0, fill)))
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
        return dispatch(plain.dequantise_int8, weight.values, weight.scale, dtype)
    return dispatch(plain.dequantise_int4, weight.pairs, weight.scale, weight.zero, dtype)


def quantise_rows(x: Tensor, *, fine: bool) -> tuple[Tensor, Tensor]:
    """Every row in steps of a 127th of its largest magnitude, rounded, 128 for zero.

    Args:
        x: float32 or bfloat16 `[N, C]`.
        fine: what rounding left is kept as well, in 254ths of a step; it follows as N more rows.

    Returns:
        uint8 `[N, C]`, or `[2 N, C]` when fine; the steps, float32 `[N, 1]`, NaN where a row is not finite.
    """
    return dispatch(plain.quantise_rows, x, fine)


def dequantise_rows(sums: Tensor, steps: Tensor, bias: Tensor | None, *, fine: bool, gelu: bool) -> Tensor:
    """Products of quantised rows as they were meant: sums * steps + bias, then GELU by tanh where asked for.

    Args:
        sums: float32 or bfloat16 `[N, O]`, or `[2 N, O]` when the rows were fine.
        steps: float32 `[N, 1]`.
        bias: `[O]`, any float dtype.

    Returns:
        `[N, O]`, in the sums' dtype.
    """
    return dispatch(plain.dequantise_rows, sums, steps, bias, fine, gelu)


def row_blocks(num_rows: int, width: int, most: int) -> Iterator[slice]:
    """Runs of rows `[num_rows, width]` that hold up to `most` values each, or one row."""
    step = max(1, most // max(1, width))
    return (slice(first, min(first + step, num_rows)) for first in range(0, num_rows, step))


def _in_blocks(quantise: Callable[[Tensor], tuple[Tensor, ...]], weight: Tensor) -> tuple[Tensor, ...]:
    """What `quantise` gives for all rows of `[O, C]`, from some at a time, which it takes in float32."""
    out: tuple[Tensor, ...] = ()
    for rows in row_blocks(len(weight), weight.shape[1], QUANTISED):
        parts = quantise(weight[rows])
        out = out or tuple(part.new_empty(len(weight), *part.shape[1:]) for part in parts)
        for whole, part in zip(out, parts, strict=True):
            whole[rows] = part
    return out
