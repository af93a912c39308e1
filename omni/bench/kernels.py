"""How near each kernel comes to what this machine can do.

The bound of a kernel is the larger of two times: its unavoidable bytes at the speed of a copy, and its multiplications at
the speed of a large matrix product. Shapes are those of the 7B model, with few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from omni.bench.report import Report, Row
from omni.bench.timing import Run, Timer, measure_ceilings
from omni.errors import OptionError
from omni.kernels import (
    BlockMask,
    BlockTable,
    Segments,
    add_rms_norm,
    attend,
    attend_paged,
    gelu_tanh,
    layer_norm,
    rms_norm,
    rotary_table,
    rotate,
    rotate_write,
    same_conv,
    silu_mul,
    up_snake_down,
)
from omni.kernels.linear import linear, pack
from omni.kernels.quantised import quantise_int4, quantise_int8


@dataclass(frozen=True)
class Kernel:
    """Attributes:
    moved: bytes; products: multiplications with addition.
    """

    name: str
    setting: str
    run: Run
    moved: int
    products: float = 0


def size(*tensors: Tensor) -> int:
    return sum(x.nbytes for x in tensors)


def cases(dtype: torch.dtype, device: torch.device, rows: int = 256, context: int = 1024) -> list[Kernel]:
    """Every contract, at so many rows and behind so long a context."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    x, w = normal(rows, 3584), normal(3584)
    wide, ff = normal(rows // 4, 2 * 18944), normal(rows, 2048)
    at, frequencies, axes = torch.arange(rows, device=device)[None], torch.ones(64, device=device), torch.zeros(64).long()
    axes = axes.to(device)
    cos, sin = rotary_table(at, frequencies, axes, dtype)
    q, k = normal(rows, 28, 128), normal(rows, 4, 128)
    d = normal(4 * rows, 16, 64)
    frame = normal(1, 96, 19 * rows)
    wave, filters = frame[:, :, : 4 * rows].contiguous(), normal(96, 96, 7)
    matrix = normal(4096, 1024)
    products = 1.0 * matrix.numel()
    taps = torch.full((12,), 1 / 12, device=device, dtype=dtype)
    num_blocks = -(-context // 16)
    blocks = normal(num_blocks + 1, 16, 4, 128)
    table = BlockTable.of([1], [context - 1], [list(range(1, num_blocks + 1))], 16, device)
    filling = BlockTable.of([rows], [0], [list(range(-(-rows // 16)))], 16, device)
    one, whole = q[:1].contiguous(), Segments.of([rows], device)
    twins, block = Segments.of([2 * rows, 2 * rows], device), BlockMask(24, 1, 0)
    return [
        Kernel("rms_norm", f"{rows}x3584", lambda: rms_norm(x, w, 1e-6), 2 * size(x)),
        Kernel("add_rms_norm", f"{rows}x3584", lambda: add_rms_norm(x, x, w, 1e-6), 4 * size(x)),
        Kernel("layer_norm", f"{rows}x3584", lambda: layer_norm(x, w, w, 1e-6), 2 * size(x)),
        Kernel("silu_mul", f"{rows // 4}x18944", lambda: silu_mul(wide), 3 * size(wide) // 2),
        Kernel("gelu_tanh", f"{rows}x2048", lambda: gelu_tanh(ff), 2 * size(ff)),
        Kernel("rotary_table", f"{rows}x64", lambda: rotary_table(at, frequencies, axes, dtype), size(cos, sin)),
        Kernel("rotate", f"{rows}x28x128", lambda: rotate(q, cos, sin), 2 * size(q)),
        Kernel(
            "up_snake_down", f"96x{19 * rows}", lambda: up_snake_down(frame, w[:96], w[:96], taps), 2 * size(frame),
            24.0 * frame.numel(),
        ),
        Kernel(
            "attend", f"causal {rows}, 28/4 heads of 128", lambda: attend(q, k, k, whole, causal=True), 2 * size(q, k),
            28 * rows * (rows + 1) * 128,
        ),
        Kernel(
            "attend", f"blocks of 24, one back, 2x{2 * rows}, 16 heads of 64", lambda: attend(d, d, d, twins, block=block),
            4 * size(d), 16 * 4 * rows * 48 * 64 * 2,
        ),
        Kernel(
            "attend_paged", f"a row behind {context}, 28/4 heads of 128", lambda: attend_paged(one, blocks, blocks, table),
            2 * size(blocks), 28 * context * 256,
        ),
        Kernel(
            "rotate_write",
            f"{rows}x28x128",
            lambda: rotate_write(q, k, k, cos, sin, blocks, blocks, filling),
            2 * size(q) + 4 * size(k),
        ),
        Kernel(
            "linear",
            f"{rows}x1024 by 1024x4096, and GELU",
            lambda: linear(ff[:, :1024], matrix, gelu=True),
            size(matrix) + 5 * size(ff) // 2,
            rows * products,
        ),
        *(
            Kernel("linear", f"1x1024 by 1024x4096 in {w}", partial(linear, ff[:1, :1024], kept), kept.nbytes, products)
            for w, kept in (("int8", pack(quantise_int8(matrix))), ("int4", pack(quantise_int4(matrix))))
        ),
        Kernel(
            "same_conv",
            f"96x{wave.shape[-1]}, 7 taps",
            lambda: same_conv(wave, filters, None),
            2 * size(wave),
            1.0 * filters.numel() * wave.shape[-1],
        ),
    ]  # fmt: skip


def measure(
    dtype: torch.dtype,
    timer: Timer,
    *,
    rows: int = 256,
    context: int = 1024,
    only: Sequence[str] = (),
    seconds: float = 0.3,
    megabytes: int = 64,
) -> Report:
    """The fastest of several readings of each; seconds: for each of them and each ceiling."""
    found = cases(dtype, timer.device, rows, context)
    if unknown := set(only) - {kernel.name for kernel in found}:
        raise OptionError(f"{min(unknown)!r} is no kernel; give some of {', '.join(dict.fromkeys(k.name for k in found))}")
    if context < rows:
        raise OptionError(f"a context of {context} holds no {rows} rows; give a longer one")
    with torch.inference_mode():
        ceilings = measure_ceilings(timer, megabytes=megabytes, side=1024, seconds=seconds)
        out = []
        for kernel in found:
            if only and kernel.name not in only:
                continue
            took = timer.best(kernel.run, seconds)
            bound = max(kernel.moved / ceilings.copy, 2 * kernel.products / ceilings.products[dtype])
            out.append(
                Row(
                    kernel.name,
                    kernel.setting,
                    1000 * took,
                    bound=1000 * bound,
                    gb_per_s=kernel.moved / took / 1e9,
                    tflop_per_s=2 * kernel.products / took / 1e12 or None,
                )
            )
    settings = {"dtype": str(dtype).removeprefix("torch."), "rows": rows, "context": context, "only": list(only)}
    return Report("kernels", timer.device, settings, out, ceilings)
