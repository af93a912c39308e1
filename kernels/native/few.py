"""Few rows times a weight, in C: read once, by threads that sleep when they wait. `few.c` says how each kind lies."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.kernels.native import build
from omni.kernels.quantised import GROUP, Int4
from omni.kernels.threads import num_threads

BLOCK = 64
"""Outputs that lie together; other numbers are filled up."""


@cache
def knows(kind: str) -> bool:
    """Whether there is a kernel for this CPU: for "floats", "bytes" or "nibbles"."""
    library = build.library()
    if library is None:
        return False
    return kind == "floats" or bool(library.few_knows(kind == "nibbles"))


def takes(x: Tensor, bias: Tensor | None) -> bool:
    """Whether these can be multiplied here: rows `[N, C]`, columns side by side."""
    if x.dtype not in build.FLOATS or x.stride(1) != 1 or (x.requires_grad and torch.is_grad_enabled()):
        return False
    return bias is None or (bias.dtype == x.dtype and bias.is_contiguous())


def floats(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ w.T + bias of plain weights `[O, C]` in float32 or bfloat16, in x's dtype; sums in float32."""
    return _floats(x, weight.data_ptr(), weight.dtype, len(weight), bias, in_blocks=False)


def floats_in_blocks(x: Tensor, packed: Tensor, dtype: torch.dtype, num_outputs: int, bias: Tensor | None) -> Tensor:
    """As `floats`, of a weight in oneDNN's order for which `lies_in_blocks`."""
    return _floats(x, torch.ops.mkldnn.data_ptr(packed), dtype, num_outputs, bias, in_blocks=True)


def _floats(x: Tensor, at: int, dtype: torch.dtype, num_outputs: int, bias: Tensor | None, *, in_blocks: bool) -> Tensor:
    N, C = x.shape
    out = torch.empty(N, num_outputs, dtype=x.dtype)
    is_half = x.dtype == torch.bfloat16
    _run("few_floats", at, _at(bias), x.data_ptr(), out.data_ptr(), N, num_outputs, C, x.stride(0),
         dtype == torch.bfloat16, is_half, in_blocks, num_threads())  # fmt: skip
    return out


def bytes_in_blocks(x: Tensor, packed: Tensor, scale: Tensor, sums: Tensor, bias: Tensor | None, *, fine: bool) -> Tensor:
    """As `floats`, of a weight of eight bits in oneDNN's order for which `lies_in_blocks`.

    x is rounded to a byte, or to two where fine.

    Args:
        scale: float32 `[O]`.
        sums: int32 `[O]`, of each output's values.
    """
    N, C = x.shape
    x = x.contiguous()
    out = torch.empty(N, len(scale), dtype=x.dtype)
    at, is_half = torch.ops.mkldnn.data_ptr(packed), x.dtype == torch.bfloat16
    _run("few_bytes", at, scale.data_ptr(), sums.data_ptr(), _at(bias), x.data_ptr(), out.data_ptr(), N, len(scale), C,
         -(-C // BLOCK) * BLOCK, is_half, fine, num_threads())  # fmt: skip
    return out


def nibbles(x: Tensor, blocks: Tensor, num_outputs: int, group: int, bias: Tensor | None) -> Tensor:
    """As `floats`, of a weight of four bits as `pack_nibbles` makes it; x is rounded to two bytes."""
    N, C = x.shape
    x = x.contiguous()
    out = torch.empty(N, num_outputs, dtype=x.dtype)
    _run("few_nibbles", blocks.data_ptr(), _at(bias), x.data_ptr(), out.data_ptr(), N, num_outputs, C, group,
         x.dtype == torch.bfloat16, num_threads())  # fmt: skip
    return out


def pack_nibbles(weight: Int4) -> tuple[Tensor, int]:
    """Blocks, uint8, and the inputs of a group; a block holds BLOCK outputs of all inputs, with scales and zeros between."""
    library = build.library()
    assert library is not None
    parts = tuple(part.contiguous() for part in (weight.pairs, weight.scale, weight.zero))
    O, C, G = weight.num_outputs, 2 * weight.pairs.shape[1], weight.scale.shape[1]
    assert C % G == 0 and C // G % GROUP == 0
    group = C // G
    blocks = torch.empty(-(-O // BLOCK), G * (group // 2 + 4) * BLOCK, dtype=torch.uint8)
    library.pack_nibbles(*(part.data_ptr() for part in (*parts, blocks)), O, C, group, num_threads())
    return blocks, group


def unpack_nibbles(blocks: Tensor, group: int, rows: slice, out: Tensor) -> Tensor:
    """Some blocks as weights, written into out `[C, blocks, BLOCK]` in float32 or bfloat16."""
    library = build.library()
    assert library is not None
    library.unpack_nibbles(
        blocks.data_ptr(), out.data_ptr(), rows.start, rows.stop - rows.start, len(out), group,
        out.dtype == torch.bfloat16, num_threads(),
    )  # fmt: skip
    return out


def lies_in_blocks(packed: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN put `[O, C]` into the order that is known here, BLOCK outputs after each other for every input.

    Of bytes four inputs of an output are side by side, and of bfloat16 two. How oneDNN does it depends on the CPU: the first
    and the last block are compared.
    """
    if not knows("bytes" if weight.dtype == torch.int8 else "floats"):
        return False
    pair, fill = (4, BLOCK) if weight.dtype == torch.int8 else (4 // weight.element_size(), 4 // weight.element_size())
    (O, C), size = weight.shape, weight.element_size()
    depth = -(-C // fill) * fill
    length = BLOCK * depth * size
    if torch.ops.mkldnn._nbytes(packed) < -(-O // BLOCK) * length:
        return False
    for first in {0, (O - 1) // BLOCK * BLOCK}:
        rows = weight[first : first + BLOCK]
        rows = F.pad(rows, (0, depth - C, 0, BLOCK - len(rows)))
        want = rows.view(BLOCK, -1, pair).transpose(0, 1).contiguous().view(-1).view(torch.uint8)
        held = (ctypes.c_uint8 * length).from_address(torch.ops.mkldnn.data_ptr(packed) + first * depth * size)
        if not torch.equal(torch.frombuffer(held, dtype=torch.uint8), want):
            return False
    return True


def _run(name: str, *args: int | None) -> None:
    library = build.library()
    assert library is not None
    if not getattr(library, name)(*args):
        raise MemoryError(f"{name}: no memory for {args[4]} rows")


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
