"""Dynamic-resolution vision tower with window attention (Qwen2.5-VL report, section 2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.encoders.config import VisionConfig
from omni.encoders.features import Picture
from omni.kernels import Segments, attend, rms_norm, rotary_table, rotate, silu_mul

Grid = tuple[int, int, int]

STACKS = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")}
EPS = 1e-6


@dataclass(frozen=True)
class Plan:
    """Where patches of one or more pictures go; it depends on their grids only.

    Attributes:
        order: int64 `[cells]`, the cell at each place of the window order.
        place: int64 `[cells]`, the inverse.
        windows, frames: the cut into attention windows, and into temporal grids.
        cos, sin: float32 `[patches, D / 2]`, in window order.
    """

    order: Tensor
    place: Tensor
    windows: Segments
    frames: Segments
    cos: Tensor
    sin: Tensor


class PatchEmbed(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, size, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1))  # stride equals kernel: a patch is one dot product


class Attention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, segments: Segments, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.num_heads, -1).unbind(1)  # [N, H, D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return self.proj(attend(q, k, v, segments).flatten(1))


class MLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu_mul(self.gate_up_proj(x)))


class Block(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, EPS)
        self.norm2 = nn.RMSNorm(config.hidden_size, EPS)
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, segments: Segments, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(rms_norm(x, self.norm1.weight, EPS), segments, cos, sin)
        return x + self.mlp(rms_norm(x, self.norm2.weight, EPS))


class PatchMerger(nn.Module):
    """The patches of a cell side by side, through an MLP: one row of the language model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.cell_dim = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = nn.RMSNorm(config.hidden_size, EPS)
        self.mlp = nn.Sequential(
            nn.Linear(self.cell_dim, self.cell_dim), nn.GELU(), nn.Linear(self.cell_dim, config.out_hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = rms_norm(x, self.ln_q.weight, EPS).view(-1, self.cell_dim)  # [cells, cell_dim]
        return self.mlp(x)


class VisionTower(nn.Module):
    inv_freq: Tensor
    axes: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)
        half = config.hidden_size // config.num_heads // 2
        step = torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half
        self.register_buffer("inv_freq", (10000.0**-step).repeat(2), persistent=False)  # [D / 2], rows then columns
        axes = torch.arange(2, device="cpu").repeat_interleave(half // 2)
        self.register_buffer("axes", axes, persistent=False)

    def num_rows(self, picture: Picture) -> int:
        t, h, w = picture.grid
        return t * h * w // self.config.spatial_merge_size**2

    def pieces(self, picture: Picture) -> Sequence[Picture]:
        """Its temporal grids: no row sees another grid than its own."""
        return picture.grids

    def plan(self, grids: Sequence[Grid]) -> Plan:
        """Window order, segments and rotary tables of pictures packed one after the other."""
        merge, side = self.config.spatial_merge_size, self.config.window_cells
        orders, positions, windows, frames = [], [], [], []
        first = 0
        for t, h, w in grids:
            rows, cols = h // merge, w // merge
            cells = torch.arange(rows * cols).view(rows, cols)
            tiles = [tile for band in cells.split(side, 0) for tile in band.split(side, 1)]
            order = torch.cat([tile.flatten() for tile in tiles])  # window order inside one temporal grid
            at = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))  # [2, h, w]
            at = at.view(2, rows, merge, cols, merge).transpose(2, 3).reshape(2, rows * cols, merge * merge)
            orders.append((first + torch.arange(t)[:, None] * rows * cols + order).flatten())
            positions.append(at[:, order].flatten(1).repeat(1, t))
            windows += [tile.numel() * merge * merge for tile in tiles] * t
            frames += [h * w] * t
            first += t * rows * cols
        device = self.inv_freq.device
        order = torch.cat(orders).to(device)
        cos, sin = rotary_table(torch.cat(positions, 1).to(device), self.inv_freq, self.axes, torch.float32)
        return Plan(order, order.argsort(), Segments.of(windows, device), Segments.of(frames, device), cos, sin)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Encode pictures packed one after the other.

        Args:
            patches: `[patches, patch_dim]`, in merge-cell order.
            grids: (t, h, w) in patches of each picture.

        Returns:
            `[cells, out_hidden_size]`, in (t, row, column) order.
        """
        plan = self.plan(grids)
        x = self.patch_embed(patches.to(self.patch_embed.proj.weight))
        merge = self.config.spatial_merge_size**2
        x = x.view(-1, merge, x.shape[-1])[plan.order].flatten(0, 1)
        for i, block in enumerate(self.blocks):
            full = i in self.config.fullatt_block_indexes
            x = block(x, plan.frames if full else plan.windows, plan.cos, plan.sin)
        return self.merger(x)[plan.place]

    def encode(self, pictures: Sequence[Picture]) -> list[Tensor]:
        rows = self(torch.cat([p.patches for p in pictures]), [p.grid for p in pictures])
        return list(rows.split([self.num_rows(p) for p in pictures]))
