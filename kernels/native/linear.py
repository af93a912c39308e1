"""Linear layers for a CPU, by the libraries inside torch's build. Contracts: `kernels/linear.py`.

Which way is taken for how many rows was measured on Zen 4 and Sapphire Rapids with two cores each.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.activation import gelu_tanh
from omni.kernels.dispatch import supports
from omni.kernels.linear import linear_in_blocks
from omni.kernels.plain.quantised import split_pairs
from omni.kernels.quantised import QUANTISED, Int4, Int8, Packed, Weight, dequantise_rows, quantise_rows, row_blocks

FINE_ROWS = 16
"""Up to so many rows a product with eight bits takes activations as two bytes, at the cost of twice the rows, which are
nearly free while the weights are being read; beyond, as one byte."""
DIRECT_ROWS = 96
"""Up to so many rows a product with four bits reads them as they are, which is bound by arithmetic from five rows on;
beyond, they are unpacked for a product in the activations' dtype."""
UNPACKED = 1 << 21
"""Weights of four bits that are unpacked at once, to stay in a cache."""
OUTPUTS = 64
"""Rows of a weight that the product with four bits reads together; other numbers are filled up."""
WIDE = 768
"""Inputs from which on oneDNN multiplies float32 faster than torch's BLAS; on Zen 4 by a fifth, one row by more."""
SUMMED = 1024
"""Inputs that oneDNN sums in float32 at once; over more its sums lose more than twice as much."""
SHORT = 128
"""Float32 rows up to this length are summed by oneDNN as well as by the BLAS that torch takes; longer ones lose accuracy."""


def linear(x: Tensor, weight: Tensor | Int8 | Int4, bias: Tensor | None, gelu: bool) -> Tensor:
    if not isinstance(weight, Tensor):
        y = linear_in_blocks(x, weight, bias)
    elif gelu and _onednn_may(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    else:
        y = F.linear(x, weight, bias)
    return gelu_tanh(y) if gelu else y


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
        return _known_order()
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
    """

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, weight: Tensor) -> PackedFloat:
        size = SUMMED if weight.dtype == torch.float32 else weight.shape[1]
        parts = weight.detach().split(size, 1)
        return cls(tuple(torch.ops.mkldnn._reorder_linear_weight(part.contiguous(), None) for part in parts))

    @property
    def nbytes(self) -> int:
        return sum(int(torch.ops.mkldnn._nbytes(part)) for part in self.parts)

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        first, *more = self.parts
        xs = x.split(SUMMED, 1) if more else (x,)
        activation = ("gelu", "tanh") if gelu and not more else ("none", "")
        y: Tensor = torch.ops.mkldnn._linear_pointwise(xs[0], first, bias, activation[0], [], activation[1])
        for part, columns in zip(more, xs[1:], strict=True):
            y = torch.ops.mkldnn._linear_pointwise.binary(columns, y, part, None, "add")
        return gelu_tanh(y) if gelu and more else y


@dataclass(frozen=True)
class PackedInt8(Packed):
    """An int8 weight in oneDNN's order.

    Attributes:
        scale: float32 `[O]`.
        zero: int32 `[O]`, all 0.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor

    @classmethod
    def of(cls, weight: Int8) -> PackedInt8:
        packed = torch.ops.onednn.qlinear_prepack(weight.values, None)
        return cls(packed, weight.scale, torch.zeros(weight.num_outputs, dtype=torch.int32))

    @property
    def nbytes(self) -> int:
        return int(torch.ops.mkldnn._nbytes(self.weight)) + self.scale.nbytes + self.zero.nbytes

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        fine = len(x) <= FINE_ROWS
        rows, steps = quantise_rows(x.contiguous(), fine=fine)
        kept = torch.bfloat16 if x.dtype == torch.bfloat16 and not fine else torch.float32
        # signed bytes would take oneDNN's reference code, a hundred times slower
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self.weight, self.scale, self.zero, None, 1.0, 0, kept, "none", [], ""
        )
        return dequantise_rows(sums, steps, bias, fine=fine, gelu=gelu).to(x.dtype)


@dataclass(frozen=True)
class PackedInt4(Packed):
    """An int4 weight in the order of torch's own kernel.

    Attributes:
        blocks: uint8 `[O', C / 2]`, O filled up to whole OUTPUTS.
        steps: bfloat16 `[G, O', 2]`, scale and zero.
        num_outputs: O.
    """

    blocks: Tensor
    steps: Tensor
    num_outputs: int

    @classmethod
    def of(cls, weight: Int4) -> PackedInt4:
        fill = -weight.num_outputs % OUTPUTS
        parts = weight.pairs, weight.scale, weight.zero
        pairs, scale, zero = (F.pad(part, (0, 0, 0, fill)) for part in parts) if fill else parts
        packed = torch.empty_like(pairs)
        tiles, of_tiles = pairs.unflatten(0, (-1, OUTPUTS)), packed.unflatten(0, (-1, OUTPUTS))
        for some in row_blocks(len(tiles), 2 * tiles[0].numel(), QUANTISED):
            values = split_pairs(tiles[some].flatten(0, 1)).int()
            of_tiles[some] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 2).unflatten(0, (-1, OUTPUTS))
        return cls(packed, torch.stack((scale, zero), 2).transpose(0, 1).contiguous(), weight.num_outputs)

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes + self.steps.nbytes

    def linear(self, x: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        x = F.pad(x, (0, 2 * self.blocks.shape[1] - x.shape[1]))
        y = self._direct(x) if len(x) <= DIRECT_ROWS else self._unpacked(x)
        if bias is not None:
            y += bias
        return gelu_tanh(y) if gelu else y

    def _direct(self, x: Tensor) -> Tensor:
        group = x.shape[1] // len(self.steps)
        # the kernel for float32 is eighty times slower
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), self.blocks, group, self.steps)
        return y[:, : self.num_outputs].to(x.dtype)

    def _unpacked(self, x: Tensor) -> Tensor:
        C, num_blocks = x.shape[1], len(self.blocks) // OUTPUTS
        step = min(num_blocks, max(4, UNPACKED // (OUTPUTS * C)))
        shape = (step, C, OUTPUTS)
        # memory is taken once, as fresh pages cost more than the arithmetic
        values, wide = torch.empty(shape, dtype=torch.uint8), torch.empty(shape)
        narrow, weight = torch.empty(shape, dtype=x.dtype), torch.empty(C, step, OUTPUTS, dtype=x.dtype)
        out = x.new_empty(len(x), num_blocks, OUTPUTS)
        for first in range(0, num_blocks, step):
            part = slice(first, min(first + step, num_blocks))
            count, rows = part.stop - first, slice(first * OUTPUTS, part.stop * OUTPUTS)
            steps = self.steps[:, rows].unflatten(1, (-1, 1, OUTPUTS)).movedim(-1, 0).transpose(1, 2)
            scale, zero = steps.float().contiguous()  # [O / 64, G, 1, 64]
            grouped = wide[:count].copy_(_order(self.blocks[rows], values[:count])).unflatten(1, (len(self.steps), -1))
            torch.addcmul(zero - 8 * scale, grouped, scale, out=grouped)  # [O / 64, G, group, 64]
            weight[:, :count].copy_(narrow[:count].copy_(wide[:count]).transpose(0, 1))
            out[:, part] = (x @ weight[:, :count].flatten(1)).unflatten(1, (count, OUTPUTS))
        return out.flatten(1)[:, : self.num_outputs]


def _order(packed: Tensor, out: Tensor) -> Tensor:
    """Values `[O / 64, C, 64]`, written into out, of packed rows `[O, C / 2]`: of 64 outputs byte i holds i and 32 + i."""
    pairs = packed.view(-1, 2 * packed.shape[1], OUTPUTS // 2)
    return torch.cat((pairs & 15, pairs >> 4), 2, out=out)


@cache
def _known_order() -> bool:
    """Whether torch's kernel packs as `_order` unpacks; how it does depends on the CPU."""
    values = (torch.arange(2 * OUTPUTS * 32, dtype=torch.int32) * 7 // 3 % 16).view(-1, 32)  # no two rows alike
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 2)
    return torch.equal(_order(packed, packed.new_empty(2, 32, OUTPUTS)).transpose(1, 2).flatten(0, 1).int(), values)


@cache
def _has(*features: str) -> bool:
    """Whether this is an x86 CPU with one of these, and torch has oneDNN for it; sse4a is AMD's alone."""
    known = torch.cpu.get_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and any(known.get(feature) for feature in features)
