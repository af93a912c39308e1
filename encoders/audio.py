"""Block-wise audio tower: 2 s of log-mel at a time become 50 rows (Qwen2.5-Omni report, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.encoders.config import AudioConfig
from omni.encoders.features import Sound
from omni.kernels import Segments, attend, layer_norm

STACKS = {"self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
ZEROS = ("audio_tower.layers.*.self_attn.k_proj.bias",)
EPS = 1e-5


class Attention(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.num_heads = config.encoder_attention_heads
        self.qkv_proj = nn.Linear(config.d_model, 3 * config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        q, k, v = self.qkv_proj(x).view(len(x), 3, self.num_heads, -1).unbind(1)  # [N, H, D]
        return self.out_proj(attend(q, k, v, segments).flatten(1))


class Layer(nn.Module):
    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model, EPS)
        self.self_attn = Attention(config)
        self.final_layer_norm = nn.LayerNorm(config.d_model, EPS)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        norm = self.self_attn_layer_norm
        x = x + self.self_attn(layer_norm(x, norm.weight, norm.bias, EPS), segments)
        norm = self.final_layer_norm
        x = x + self.fc2(F.gelu(self.fc1(layer_norm(x, norm.weight, norm.bias, EPS))))
        if x.dtype == torch.float16:  # the published weights reach beyond its range
            x = x.clamp(-64504, 64504)
        return x


def num_audio_tokens(frames: int) -> int:
    """Rows that come of so many mel frames: the second convolution halves them, and so does a pooling."""
    halved = (frames - 1) // 2 + 1
    return (halved - 2) // 2 + 1


class AudioTower(nn.Module):
    positions: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.ln_post = nn.LayerNorm(config.d_model, EPS)
        self.proj = nn.Linear(config.d_model, config.output_dim)
        half = config.d_model // 2
        scale = torch.exp(torch.arange(half, dtype=torch.float32, device="cpu") * (-math.log(10000) / (half - 1)))
        angle = torch.arange(config.n_window, dtype=torch.float32, device="cpu")[:, None] * scale
        self.register_buffer("positions", torch.cat((angle.sin(), angle.cos()), 1), persistent=False)

    def forward(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Encode sounds; nothing sees past its own block of 2 s.

        Args:
            mels: `[mel bins, frames]` each, at least 3 frames.

        Returns:
            `[num_audio_tokens(frames), output_dim]` each.
        """
        blocks = [block for mel in mels for block in mel.split(self.config.chunk_frames, 1)]
        x = self._convolve(blocks)
        lens = [(block.shape[1] + 1) // 2 for block in blocks]
        segments = Segments.of(lens, x.device)
        for layer in self.layers:
            x = layer(x, segments)
        per_sound = [(mel.shape[1] + 1) // 2 for mel in mels]
        # an odd last frame has no partner to be averaged with and is dropped
        pairs = [frames[: n // 2 * 2] for frames, n in zip(x.split(per_sound), per_sound, strict=True)]
        x = torch.cat(pairs).view(-1, 2, x.shape[-1]).mean(1)  # [rows, d_model]
        x = self.proj(layer_norm(x, self.ln_post.weight, self.ln_post.bias, EPS))
        return list(x.split([n // 2 for n in per_sound]))

    def _convolve(self, blocks: Sequence[Tensor]) -> Tensor:
        """Each block `[mel bins, n]` alone through both convolutions; `[sum of (n + 1) // 2, d_model]`."""
        weight = self.conv1.weight
        x = nn.utils.rnn.pad_sequence([block.T.to(weight) for block in blocks], batch_first=True)
        lens = torch.tensor([block.shape[1] for block in blocks], device=weight.device)
        real = torch.arange(x.shape[1], device=weight.device) < lens[:, None]  # [blocks, frames]
        x = F.gelu(self.conv1(x.transpose(1, 2))) * real[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # [blocks, frames / 2, d_model]
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        return torch.cat([frames[: (block.shape[1] + 1) // 2] for frames, block in zip(x, blocks, strict=True)])

    @property
    def block_frames(self) -> int:
        """Mel frames of one block of attention (2 s)."""
        return self.config.chunk_frames

    def num_rows(self, sound: Sound) -> int:
        return num_audio_tokens(sound.num_frames)

    def pieces(self, sound: Sound) -> Sequence[Sound]:
        """Its blocks; a last one too short for a row belongs to none."""
        blocks = sound.split(self.block_frames)
        return blocks if self.num_rows(blocks[-1]) > 0 else blocks[:-1]

    def encode(self, sounds: Sequence[Sound]) -> list[Tensor]:
        return self([sound.mel for sound in sounds])
