"""What the gate builds, at the shapes of the published models, for each contract but attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from omni.kernels.fused import activation, linear, norm, rotary
from omni.kernels.quantised import Int4, Int8
from tests.kernels.aot import Build

F32 = torch.float32


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@triton.jit
def dot_kernel(p_x, p_y, p_z, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(p_z + i, tl.dot(tl.load(p_x + i), tl.load(p_y + i)))


def dot(size: int, warps: int) -> None:
    dot_kernel[(1,)](meta(size, size), meta(size, size), meta(size, size, dtype=torch.float32), BLOCK=size, num_warps=warps)


@triton.jit
def spill_kernel(p_x, p_y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    b_x = tl.load(p_x + i)
    tl.store(p_y + i, b_x / tl.sum(b_x))


def spill() -> None:
    x = meta(64, 64, dtype=F32)
    spill_kernel[(1,)](x, x, BLOCK=64, num_warps=1, maxnreg=64)  # 128 values a thread, and 64 registers


def rotate_write(N: int, H: int, K: int, D: int) -> None:
    qkv = meta(N, H + 2 * K, D).split((H, K, K), 1)
    table, cache = meta(N, D // 2), meta(512, 64, K, D)
    rotary.rotate_write(*qkv, table, table, cache, cache, meta(N, dtype=torch.int64))


def up_snake_down(C: int, T: int, dtype: torch.dtype) -> None:
    activation.up_snake_down(meta(1, C, T, dtype=dtype), *(meta(n, dtype=dtype) for n in (C, C, 12)))


def int8_of(M: int, C: int, O: int) -> None:
    linear.linear(meta(M, C), Int8(meta(O, C, dtype=torch.int8), meta(O, dtype=F32)), meta(O), False)


def int4_of(M: int, C: int, O: int) -> None:
    linear.linear(meta(M, C), Int4(meta(O, C // 2, dtype=torch.uint8), meta(O, C // 32), meta(O, C // 32)), None, False)


BUILDS: dict[str, Build] = {
    "harness: dot": lambda: dot(64, 4),
    "harness: spill": spill,
    "rms_norm: thinker 7B": lambda: norm.rms_norm(meta(1, 3584), meta(3584), 1e-6),
    "add_rms_norm: thinker 7B": lambda: norm.add_rms_norm(meta(1, 3584), meta(1, 3584), meta(3584), 1e-6),
    "layer_norm: audio tower": lambda: norm.layer_norm(meta(1500, 1280), meta(1280), meta(1280), 1e-5),
    "rotate: vision": lambda: rotary.rotate(meta(5328, 48, 80)[:, :16], *meta(2, 5328, 40, dtype=F32), False),
    "rotate: DiT": lambda: rotary.rotate(meta(192, 16, 64, dtype=F32)[:, :1], *meta(2, 192, 32, dtype=F32), True),
    "rotate_write: thinker 7B": lambda: rotate_write(1, 28, 4, 128),
    "rotate_write: talker 3B": lambda: rotate_write(32, 14, 2, 64),
    "silu_mul: thinker 7B": lambda: activation.silu_mul(meta(1, 2 * 18944)),
    "gelu_tanh: DiT": lambda: activation.gelu_tanh(meta(192, 2048, dtype=F32)),
    "up_snake_down: float32": lambda: up_snake_down(384, 1200, F32),
    "up_snake_down: bfloat16": lambda: up_snake_down(24, 19200, torch.bfloat16),
    "linear_int8: thinker 7B, 1 row": lambda: int8_of(1, 3584, 37888),
    "linear_int8: talker 7B, 1 row": lambda: int8_of(1, 18944, 896),
    "linear_int8: thinker 7B, 8 rows": lambda: int8_of(8, 3584, 37888),
    "linear_int8: talker 7B, 8 rows": lambda: int8_of(8, 18944, 896),
    "linear_int4: thinker 7B, 1 row": lambda: int4_of(1, 3584, 37888),
    "linear_int4: talker 7B, 1 row": lambda: int4_of(1, 18944, 896),
    "linear_int4: thinker 7B, 8 rows": lambda: int4_of(8, 3584, 37888),
    "linear_int4: talker 7B, 8 rows": lambda: int4_of(8, 18944, 896),
}
