"""Linear layers for a CPU: few rows in C, many by the libraries inside torch's build. Contracts: `kernels/linear.py`.

Which way is taken for how many rows was measured on Zen 4 and Sapphire Rapids with two cores each.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.activation import gelu_tanh
from omni.kernels.dispatch import supports
from omni.kernels.linear import linear_in_blocks
from omni.kernels.native import build, few
from omni.kernels.quantised import Int4, Int8, Packed, Weight, dequantise_rows, quantise_rows

FINE_ROWS = 16
"""Up to so many rows a product with eight bits takes activations as two bytes, at the cost of twice the rows, which are
nearly free while the weights are being read; beyond, as one byte."""
FEW_FLOATS = 16
"""Up to so many rows float weights are read by threads of our own."""
DIRECT_ROWS = 96
"""Up to so many rows a product with four bits reads them as they are; beyond, they are unpacked for a product in the
activations' dtype."""
UNPACKED = 1 << 21
"""Weights of four bits that are unpacked at once, to stay in a cache."""
WIDE = 768
"""Inputs from which on oneDNN multiplies float32 faster than torch's BLAS; on Zen 4 by a fifth, one row by more."""
SUMMED = 1024
"""Inputs that oneDNN sums in float32 at once; over more its sums lose more than twice as much."""
MOST_BYTES = 1 << 16
"""Inputs up to which sums of products of bytes fit into 32 bits."""
SHORT = 128
"""Float32 rows up to this length are summed by oneDNN as well as by the BLAS that torch takes; longer ones lose accuracy."""


def linear(x: Tensor, weight: Tensor | Int8 | Int4, bias: Tensor | None, gelu: bool) -> Tensor:
    if not isinstance(weight, Tensor):
        y = linear_in_blocks(x, weight, bias)
    elif len(x) <= FEW_FLOATS and _are_few(x, weight, bias):
        y = few.floats(x, weight, bias)
    elif gelu and _onednn_may(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    else:
        y = F.linear(x, weight, bias)
    return gelu_tanh(y) if gelu else y


def _are_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether rows are multiplied in C by a plain weight; `build.takes_halves` says why float32 is not."""
    grad = weight.requires_grad and torch.is_grad_enabled()
    return (
        not grad and weight.dtype == torch.bfloat16 and weight.is_contiguous() and few.knows("floats") and few.takes(x, bias)
    )


def _onednn_may(x: Tensor, weight: Tensor) -> bool:
    """It knows neither gradients nor tensors of two dtypes, nor bfloat16 on CPUs without AVX-512."""
    return (
        x.dtype == weight.dtype
        and ((x.dtype == torch.bfloat16 and _knows_bfloat16()) or (x.dtype == torch.float32 and x.shape[-1] <= SHORT))
        and torch.backends.mkldnn.is_available()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


@cache
def _knows_bfloat16() -> bool:
    known: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return known


def _packs(weight: Tensor | Int8 | Int4) -> bool:
    if isinstance(weight, Int4):
        return few.knows("nibbles")
    if isinstance(weight, Int8):  # without these instructions pairs of products are summed in 16 bits, which saturate
        return _has("avx512_vnni", "avx_vnni", "amx_int8")
    if weight.dtype == torch.float32:  # an Intel CPU's BLAS is as fast for one row, and errs less than half as much
        return weight.shape[1] >= WIDE and _has("avx512_f") and _has("sse4a")
    return weight.dtype == torch.bfloat16 and _has("avx512_bf16", "amx_bf16")


@supports(_packs)
def pack(weight: Tensor | Int8 | Int4) -> Weight:
    if isinstance(weight, Tensor):
        return PackedFloat.of(weight)
    return PackedInt8.of(weight) if isinstance(weight, Int8) else PackedInt4.of(weight)


@dataclass(frozen=True)
class PackedFloat(Packed):
    """A weight in oneDNN's order.

    Attributes:
        parts: of one weight `[O, C]`, SUMMED inputs in each where it is float32.
        num_outputs: O.
        dtype: of the weight.
        in_blocks: whether the order is one that few rows are multiplied from.
    """

    parts: tuple[Tensor, ...]
    num_outputs: int
    dtype: torch.dtype
    in_blocks: bool

    @classmethod
    def of(cls, weight: Tensor) -> PackedFloat:
        size = SUMMED if weight.dtype == torch.float32 else weight.shape[1]
        parts = [part.contiguous() for part in weight.detach().split(size, 1)]
        packed = tuple(torch.ops.mkldnn._reorder_linear_weight(part, None) for part in parts)
        in_blocks = weight.dtype == torch.bfloat16 and all(
            few.lies_in_blocks(order, part) for order, part in zip(packed, parts, strict=True)
        )
        return cls(packed, len(weight), weight.dtype, in_blocks)

    @property
    def nbytes(self) -> int:
        return sum(int(torch.ops.mkldnn._nbytes(part)) for part in self.parts)

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        if len(x) <= FEW_FLOATS and self.in_blocks and few.takes(x, bias):
            return self._few(x, bias, gelu=gelu)
        first, *more = self.parts
        xs = x.split(SUMMED, 1) if more else (x,)
        activation = ("gelu", "tanh") if gelu and not more else ("none", "")
        y: Tensor = torch.ops.mkldnn._linear_pointwise(xs[0], first, bias, activation[0], [], activation[1])
        for part, columns in zip(more, xs[1:], strict=True):
            y = torch.ops.mkldnn._linear_pointwise.binary(columns, y, part, None, "add")
        return gelu_tanh(y) if gelu and more else y

    def _few(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        xs = x.split(SUMMED, 1) if len(self.parts) > 1 else (x,)
        biases = (bias, *(None for _ in xs[1:]))
        sums = (
            few.floats_in_blocks(columns, part, self.dtype, self.num_outputs, added)
            for columns, part, added in zip(xs, self.parts, biases, strict=True)
        )
        y = reduce(Tensor.add_, sums)
        return gelu_tanh(y) if gelu else y


@dataclass(frozen=True)
class PackedInt8(Packed):
    """An int8 weight in oneDNN's order.

    Attributes:
        scale: float32 `[O]`.
        zero: int32 `[O]`, all 0.
        sums: int32 `[O]`, of each output's values.
        in_blocks: whether the order is one that few rows are multiplied from.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor
    sums: Tensor
    in_blocks: bool

    @classmethod
    def of(cls, weight: Int8) -> PackedInt8:
        packed = torch.ops.onednn.qlinear_prepack(weight.values, None)
        sums = weight.values.sum(1, dtype=torch.int32)
        in_blocks = few.lies_in_blocks(packed, weight.values) and weight.values.shape[1] <= MOST_BYTES
        return cls(packed, weight.scale, torch.zeros_like(sums), sums, in_blocks)

    @property
    def nbytes(self) -> int:
        return int(torch.ops.mkldnn._nbytes(self.weight)) + self.scale.nbytes + self.zero.nbytes + self.sums.nbytes

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        fine = len(x) <= FINE_ROWS
        if fine and self.in_blocks and few.takes(x, bias):
            y = few.bytes_in_blocks(x, self.weight, self.scale, self.sums, bias, fine=True)
            return gelu_tanh(y) if gelu else y
        rows, steps = quantise_rows(x.contiguous(), fine=fine)
        kept = torch.bfloat16 if x.dtype == torch.bfloat16 and not fine else torch.float32
        # signed bytes would take oneDNN's reference code, a hundred times slower
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self.weight, self.scale, self.zero, None, 1.0, 0, kept, "none", [], ""
        )
        return dequantise_rows(sums, steps, bias, fine=fine, gelu=gelu).to(x.dtype)


@dataclass(frozen=True)
class PackedInt4(Packed):
    """An int4 weight in an order of our own.

    Attributes:
        blocks: uint8, see `few.pack_nibbles`.
        group: inputs that share a scale and a zero.
        num_outputs, num_inputs: O and C; inputs are filled up to whole groups.
    """

    blocks: Tensor
    group: int
    num_outputs: int
    num_inputs: int

    @classmethod
    def of(cls, weight: Int4) -> PackedInt4:
        return cls(*few.pack_nibbles(weight), weight.num_outputs, 2 * weight.pairs.shape[1])

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        if len(x) <= DIRECT_ROWS and few.takes(x, bias):
            y = few.nibbles(x, self.blocks, self.num_outputs, self.group, bias)
        else:
            y = self._unpacked(x)
            if bias is not None:
                y += bias
        return gelu_tanh(y) if gelu else y

    def _unpacked(self, x: Tensor) -> Tensor:
        C, num_blocks = self.num_inputs, len(self.blocks)
        x = F.pad(x, (0, C - x.shape[1]))
        kept = x.dtype if x.dtype in build.FLOATS else torch.float32
        step = min(num_blocks, max(4, UNPACKED // (few.BLOCK * C)))
        # memory is taken once, as fresh pages cost more than the arithmetic
        weight = torch.empty(C * step * few.BLOCK, dtype=kept)
        out = x.new_empty(len(x), num_blocks, few.BLOCK)
        for first in range(0, num_blocks, step):
            rows = slice(first, min(first + step, num_blocks))
            count = rows.stop - first
            part = weight[: C * count * few.BLOCK].view(C, count, few.BLOCK)
            few.unpack_nibbles(self.blocks, self.group, rows, part)
            out[:, rows] = (x @ part.flatten(1).to(x.dtype)).unflatten(1, (count, few.BLOCK))
        return out.flatten(1)[:, : self.num_outputs]


@cache
def _has(*features: str) -> bool:
    """Whether this is an x86 CPU with one of these, and torch has oneDNN for it; sse4a is AMD's alone."""
    known = torch.cpu.get_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and any(known.get(feature) for feature in features)
