"""How near the plain kernels come to what this machine can do.

    python -m demos.bench

The bound of a kernel is the larger of two times: its unavoidable bytes at the speed of a copy, and its multiplications at
the speed of a large matrix product, both measured here, in float32. Shapes are those of the 7B model, with few rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from omni.kernels import (
    BlockMask,
    PageTable,
    Segments,
    ada_layer_norm,
    attend,
    attend_paged,
    rms_norm,
    rotary_table,
    rotate,
    silu_mul,
    up_snake_down,
)

CPU = torch.device("cpu")


def seconds(run: Callable[[], object], budget: float = 0.3) -> float:
    """The fastest of several runs."""
    run()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def size(*tensors: Tensor) -> int:
    return sum(x.nbytes for x in tensors)


def cases() -> list[tuple[str, Callable[[], object], int, float]]:
    """(name, run, bytes that must move, multiply-adds)."""
    x, w = torch.randn(256, 3584), torch.randn(3584)
    wide = torch.randn(64, 2 * 18944)
    cos, sin = rotary_table(torch.arange(256)[None], torch.ones(64), torch.zeros(64, dtype=torch.long), torch.float32)
    q, k = torch.randn(256, 28, 128), torch.randn(256, 4, 128)
    d = torch.randn(2 * 480, 16, 64)
    frame = torch.randn(1, 96, 4800)
    taps = torch.full((12,), 1 / 12)
    pages = torch.randn(65, 16, 4, 128)
    table = PageTable.of([1], [1023], [list(range(1, 65))], 16, CPU)
    one, whole, twins = q[:1].contiguous(), Segments.of([256]), Segments.of([480, 480])
    block = BlockMask(24, 1, 0)
    return [
        ("rms_norm 256x3584", lambda: rms_norm(x, w, 1e-6), 2 * size(x), 0),
        ("ada_layer_norm 256x3584", lambda: ada_layer_norm(x, w, w, 1e-6), 2 * size(x), 0),
        ("silu_mul 64x18944", lambda: silu_mul(wide), 3 * size(wide) // 2, 0),
        ("rotate 256x28x128", lambda: rotate(q, cos, sin), 2 * size(q), 0),
        ("up_snake_down 96x4800", lambda: up_snake_down(frame, w[:96], w[:96], taps), 2 * size(frame), 24.0 * frame.numel()),
        ("attend causal 256, 28/4 heads", lambda: attend(q, k, k, whole, causal=True), 2 * size(q, k), 28 * 256 * 257 * 128),
        ("attend blocks 2x480, 16 heads", lambda: attend(d, d, d, twins, block=block), 4 * size(d), 16 * 960 * 48 * 64 * 2),
        ("attend_paged decode 1024, 28/4", lambda: attend_paged(one, pages, pages, table), 2 * size(pages), 28 * 1024 * 256),
    ]


def main() -> None:
    a, big = torch.randn(1024, 1024), torch.randn(16 << 20)
    out = torch.empty_like(big)
    copy, product = 2 * size(big) / seconds(lambda: out.copy_(big)), 1024**3 / seconds(lambda: a @ a)
    print(
        f"float32, {torch.get_num_threads()} threads: copy {copy / 1e9:.1f} GB/s, product {2 * product / 1e9:.0f} GFLOP/s\n"
    )
    print(f"{'kernel':34}{'ms':>9}{'bound':>9}{'times':>8}")
    for name, run, moved, products in cases():
        took, bound = seconds(run), max(moved / copy, products / product)
        print(f"{name:34}{took * 1e3:9.3f}{bound * 1e3:9.3f}{took / bound:8.1f}")


if __name__ == "__main__":
    main()
