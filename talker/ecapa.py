"""Speaker encoder: a recording's mel to one vector (ECAPA-TDNN, arXiv 2005.07143)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omni.errors import CheckpointError
from omni.talker.config import EcapaConfig

MIN_VARIANCE = 1e-12


def conv(in_dim: int, out_dim: int, kernel_size: int = 1, dilation: int = 1) -> nn.Conv1d:
    """Keeps the length; the signal is mirrored at its edges."""
    return nn.Conv1d(in_dim, out_dim, kernel_size, dilation=dilation, padding="same", padding_mode="reflect")


def mean_and_std(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Over the time of x `[B, C, T]`, with weights that sum to 1 over T; `[B, C, 1]` each."""
    mean = (weight * x).sum(-1, keepdim=True)
    variance = (weight * (x - mean).square()).sum(-1, keepdim=True)
    return mean, variance.clamp(min=MIN_VARIANCE).sqrt()


class TDNN(nn.Module):
    def __init__(self, in_dim: int, out_dim: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = conv(in_dim, out_dim, kernel_size, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Res2Net(nn.Module):
    """Channels in `scale` groups: the first passes, each later one takes in the result of the one before it."""

    def __init__(self, channels: int, scale: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        width = channels // scale
        self.blocks = nn.ModuleList(TDNN(width, width, kernel_size, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.chunk(len(self.blocks) + 1, 1)
        done = [first]
        for i, (part, block) in enumerate(zip(rest, self.blocks, strict=True)):
            done.append(block(part + done[-1] if i else part))
        return torch.cat(done, 1)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, squeezed)
        self.conv2 = conv(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.conv1(x.mean(-1, keepdim=True)))  # [B, squeezed, 1]
        return x * torch.sigmoid(self.conv2(gate))


class Block(nn.Module):
    def __init__(self, channels: int, config: EcapaConfig, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.tdnn1 = TDNN(channels, channels)
        self.res2net_block = Res2Net(channels, config.res2net_scale, kernel_size, dilation)
        self.tdnn2 = TDNN(channels, channels)
        self.se_block = SqueezeExcite(channels, config.se_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))))
        return y + x


class Pooling(nn.Module):
    """Mean and deviation over time, each channel weighting the frames in its own way."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.tdnn = TDNN(3 * channels, hidden)
        self.conv = conv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        even = x.new_full((1, 1, x.shape[-1]), 1 / x.shape[-1])
        seen = torch.cat((x, *(s.expand_as(x) for s in mean_and_std(x, even))), 1)  # [B, 3 C, T]
        weight = self.conv(torch.tanh(self.tdnn(seen))).softmax(-1)  # [B, C, T]
        return torch.cat(mean_and_std(x, weight), 1)  # [B, 2 C, 1]


class SpeakerEncoder(nn.Module):
    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        channels, shapes = config.channels, list(zip(config.kernel_sizes, config.dilations, strict=True))
        # residual blocks keep their width, and `mfa` takes all their results side by side
        if len(set(channels[:-1])) != 1 or channels[-1] != sum(channels[1:-1]):
            raise CheckpointError(
                f"enc_channels {channels} do not fit: all but the last are equal, the last is the inner ones' sum"
            )
        self.blocks = nn.ModuleList([TDNN(config.mel_dim, channels[0], *shapes[0])])
        self.blocks.extend(Block(width, config, *shape) for width, shape in zip(channels[1:-1], shapes[1:-1], strict=True))
        self.mfa = TDNN(channels[-1], channels[-1], *shapes[-1])
        self.asp = Pooling(channels[-1], config.attention_channels)
        self.fc = conv(2 * channels[-1], config.out_dim)

    def forward(self, mel: Tensor) -> Tensor:
        """`[B, out_dim]` from log-mel frames `[B, T, mel_dim]`; T >= 5 (a mirrored edge must be inside the signal)."""
        x = mel.transpose(1, 2)  # [B, C, T]
        each = []
        for block in self.blocks:
            x = block(x)
            each.append(x)
        pooled: Tensor = self.fc(self.asp(self.mfa(torch.cat(each[1:], 1))))
        return pooled.squeeze(-1)  # [B, out_dim]
