"""Vocoder network: log-mel frames to a wave (BigVGAN, arXiv 2206.04658)."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn

from omni.kernels import same_conv, up_conv, up_snake_down
from omni.talker.config import BigVGANConfig

MIN_DB = -115.0
TOP_DB = 20.0
NUM_TAPS = 12


def low_pass() -> Tensor:
    """Float32 `[12]`: Kaiser-windowed sinc with cutoff 1/4 and half-width 0.3 of the sampling rate, sum 1."""
    cutoff, half_width = 0.25, 0.3
    attenuation = 2.285 * (NUM_TAPS // 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's rule for more than 50 dB
    window = torch.kaiser_window(NUM_TAPS, periodic=False, beta=beta, dtype=torch.float32, device="cpu")
    at = torch.arange(-NUM_TAPS // 2, NUM_TAPS // 2, device="cpu") + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * at)
    return taps / taps.sum()


def loudness(mel: Tensor) -> Tensor:
    """Natural-log amplitudes to decibels, 20 dB and -95 dB becoming 1 and -1."""
    floor = math.exp(MIN_DB / 20 * math.log(10))
    db = 20 * torch.log10(mel.exp().clamp(min=floor)) - TOP_DB
    return (2 * ((db - MIN_DB) / -MIN_DB) - 1).clamp(-1, 1)


class Snake(nn.Module):
    """Holds the weights of `up_snake_down`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


class Activation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = Snake(channels)

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        return up_snake_down(x, self.act.alpha, self.act.beta, taps)


class SameConv(nn.Conv1d):
    """Keeps the length."""

    def __init__(self, channels: int, out: int, kernel_size: int, dilation: int = 1, bias: bool = True) -> None:
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(channels, out, kernel_size, dilation=dilation, padding=padding, bias=bias)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        return same_conv(x, self.weight, self.bias, self.dilation[0], plus)


class UpConv(nn.ConvTranspose1d):
    """Makes `stride` samples of one."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        return up_conv(x, self.weight, self.bias, self.stride[0])


class AMPBlock(nn.Module):
    """Anti-aliased multi-periodicity: a pair of convolutions for each dilation."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(SameConv(channels, channels, kernel_size, d) for d in dilations)
        self.convs2 = nn.ModuleList(SameConv(channels, channels, kernel_size) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        pairs = zip(self.activations[::2], self.convs1, self.activations[1::2], self.convs2, strict=True)
        for act1, conv1, act2, conv2 in pairs:
            x = conv2(act2(conv1(act1(x, taps)), taps), plus=x)
        return x


class BigVGAN(nn.Module):
    taps: Tensor

    def __init__(self, config: BigVGANConfig) -> None:
        super().__init__()
        self.config = config
        width = config.upsample_initial_channel
        self.conv_pre = SameConv(config.mel_dim, width, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, size in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = UpConv(width, width // 2, size, rate, padding=(size - rate) // 2)
            self.ups.append(nn.Sequential(up))  # of one, as the published keys have it
            width //= 2
            shapes = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            self.resblocks.extend(AMPBlock(width, kernel_size, dilations) for kernel_size, dilations in shapes)
        self.activation_post = Activation(width)
        self.conv_post = SameConv(width, 1, 7, bias=False)
        self.register_buffer("taps", low_pass(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Wave `[B, hop T]` in -1..1 from natural-log mel frames `[B, T, mel_dim]`."""
        x = self.conv_pre(loudness(mel).transpose(1, 2).contiguous())  # [B, C, T]
        num = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = up(x)  # [B, C / 2, rate T]
            blocks = self.resblocks[num * stage : num * (stage + 1)]
            x = reduce(torch.add, [block(x, self.taps) for block in blocks]) / num
        wave: Tensor = self.conv_post(self.activation_post(x, self.taps))  # [B, 1, hop T]
        return wave.clamp(-1, 1).squeeze(1)
