"""Convolution for a CPU: in C, by Fourier transforms of short tiles, and transposed as one product for all taps.

Contracts: `kernels/convolution.py`.

Tiles of `size` samples that overlap by the taps but one turn into 3/2 size numbers each, which take as many products as one
tap would for size samples: 2.1 (32 samples) or 3.8 (16) products for an output of 11 taps. Its rounding errors are those of
the direct way. The price is memory: a weight in this form takes 3/2 size / taps times its own,
1.7 GB for the published vocoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from omni.kernels.dispatch import supports
from omni.kernels.native import build
from omni.kernels.threads import num_threads

LARGE = 8
"""Times as many weights as samples to be made, from which on torch's own way takes up to seven times as long: it sorts the
weights anew at each call."""

_packed = WeakTensorKeyDictionary()


def tile(weight: Tensor) -> int:
    """Samples in a tile for this weight `[O, I, K]`, the fastest by measurement; 0 where the direct way is."""
    _, I, taps = weight.shape
    if taps > 11:
        return 0
    # the wider a layer, the shorter its signal and the larger its weight
    if taps > 7 or I <= 96:
        return 32
    if taps > 3:
        return 32 if I <= 384 else 16
    return 8


def _supports(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, plus: Tensor | None) -> bool:
    """Weights that have a tile, and tell when they change."""
    return tile(weight) > 0 and not weight.is_inference() and build.takes(x, weight, bias, plus)


@supports(_supports)
def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, plus: Tensor | None) -> Tensor:
    (B, I, T), (O, _, taps), compiled = x.shape, weight.shape, build.library()
    assert compiled is not None
    assert weight.shape[1] == I and taps % 2 == 1
    assert plus is None or plus.shape == (B, O, T)
    y = x.new_empty(B, O, T)
    pointers = (0 if each is None else each.data_ptr() for each in (x, _pack(weight), bias, plus, y))
    done = compiled.same_convolution(*pointers, B, I, O, T, taps, dilation, tile(weight), num_threads())
    if not done:
        raise MemoryError("no memory for the tiles of a convolution")
    return y


def _pack(weight: Tensor) -> Tensor:
    """The weight by frequency, made once for as long as it stays the same."""
    version = weight._version
    kept: tuple[int, Tensor] | None = _packed.get(weight)
    if kept is None or kept[0] != version:
        kept = version, _planes(weight)
        _packed[weight] = kept
    return kept[1]


@torch.no_grad()
def _planes(weight: Tensor) -> Tensor:
    """`[3/2 size - 1, O / rows, I, rows]`: real numbers for the two real frequencies, then three for every other.

    (a + bi) (c + di) takes the products (a + b) c, a (d - c) and b (c + d).
    """
    (O, I, taps), size, compiled = weight.shape, tile(weight), build.library()
    assert compiled is not None
    rows = compiled.rows()
    waves = torch.fft.rfft(torch.eye(taps, dtype=torch.float64), size).T.conj() / size  # [size / 2 + 1, K]
    c, d = waves.real, waves.imag
    threes = torch.stack((c, d - c, c + d), 1)[1:-1].flatten(0, 1)
    table = torch.cat((c[:1], c[-1:], threes))  # [3/2 size - 1, K]
    out = weight.new_empty(len(table), -(-O // rows), I, rows)
    pointers = (each.data_ptr() for each in (weight, table, out))
    compiled.pack(*pointers, O, I, taps, len(table), num_threads())
    return out


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> bool:
    return weight.numel() >= LARGE * x.shape[0] * weight.shape[1] * x.shape[2] * rate


@supports(_pays)
def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    (B, _, T), (_, O, K) = x.shape, weight.shape
    parts, cut = -(-K // rate), (K - rate) // 2
    taps = (weight.flatten(1).t() @ x).view(B, O, K, T)
    taps = F.pad(taps, (0, 0, 0, parts * rate - K)).unflatten(2, (parts, rate))  # [B, O, parts, rate, T]
    y = x.new_zeros(B, O, T + parts - 1, rate)
    if bias is not None:
        y += bias[:, None, None]
    for i in range(parts):
        y[:, :, i : i + T] += taps[:, :, i].mT
    return y.flatten(2)[..., cut : cut + rate * T].contiguous()
