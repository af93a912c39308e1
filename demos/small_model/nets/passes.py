"""Batched, differentiable forward passes over the parameters of omni's own modules, for training.

omni packs sequences and keeps caches; training wants rectangles. The results are those of the modules themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.encoders.audio import AudioTower
from omni.encoders.vision import VisionTower
from omni.models.decoder import Decoder

MERGE = 4
"""Patches in a cell."""
ROWS = 160
"""Rows that attend at once."""


def initialise(network: nn.Module, depth: int) -> None:
    """Fan-in scaled weights; what writes into a residual stream is scaled down by its depth."""
    for name, p in network.named_parameters():
        if p.ndim >= 2:
            scale = p[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "out_proj.weight", "fc2.weight")):
                scale *= (2 * depth) ** -0.5
            nn.init.normal_(p, 0, scale)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
        else:
            nn.init.ones_(p)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: `[..., T, D]` by tables that broadcast to `[..., T, D / 2]`."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Plain softmax attention `[B, H, T, D]`; a masked SDPA's backward is slow on CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    return scores.softmax(-1).to(v.dtype) @ v


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to what came before, `[B, H, T, D]`, in runs of rows that need not look at all that comes later."""
    out = []
    for first in range(0, q.shape[2], ROWS):
        last = min(first + ROWS, q.shape[2])
        later = torch.full((last - first, last), -1e4, device=q.device, dtype=v.dtype).triu(1 + first)
        out.append(attention(q[:, :, first:last], k[:, :, :last], v[:, :, :last], later))
    return torch.cat(out, 2)


def norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps)


def vision(tower: VisionTower, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows `[B, cells, C]` of B pictures or temporal grids of one size, patches `[B, h * w, patch_dim]` in cell order.

    And what the rows are made of, `[B, cells, 4 hidden_size]`.
    """
    h, w = grid
    plan = tower.plan([(1, h, w)])
    place = (
        plan.place[:, None] * MERGE + torch.arange(MERGE, device=patches.device)
    ).flatten()  # window order -> cell order
    cos, sin = plan.cos[place], plan.sin[place]
    lens = plan.windows.lens
    window = torch.arange(len(lens)).repeat_interleave(torch.tensor(lens)).to(patches.device)[place]
    apart = torch.where(window[:, None] == window, 0.0, -1e4)
    x = F.linear(patches, tower.patch_embed.proj.weight.flatten(1))
    blocks: Any = tower.blocks
    for i, block in enumerate(blocks):
        y = norm(x, block.norm1.weight)
        q, k, v = block.attn.qkv(y).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, P, D]
        q, k = turn(q, cos, sin).to(v.dtype), turn(k, cos, sin).to(v.dtype)
        full = i in tower.config.fullatt_block_indexes
        y = attention(q, k, v, v.new_zeros(()) if full else apart.to(v.dtype))
        x = x + block.attn.proj(y.transpose(1, 2).flatten(2))
        gate, up = block.mlp.gate_up_proj(norm(x, block.norm2.weight)).chunk(2, -1)
        x = x + block.mlp.down_proj(F.silu(gate) * up)
    x = norm(x, tower.merger.ln_q.weight).unflatten(1, (-1, MERGE)).flatten(2)
    rows: Tensor = tower.merger.mlp(x)
    return rows, x


def audio(tower: AudioTower, mels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Rows `[n, C]` of sounds `[bins, frames]` of any length.

    And the frames `[2 n, d_model]` before they are paired, and what all the rows are made of, `[N, d_model]`.
    """
    size = tower.config.chunk_frames
    blocks = [block for mel in mels for block in mel.split(size, 1)]
    lens = torch.tensor([block.shape[1] for block in blocks], device=blocks[0].device)
    x = nn.utils.rnn.pad_sequence([block.T for block in blocks], batch_first=True)
    real = torch.arange(x.shape[1], device=lens.device) < lens[:, None]
    x = F.gelu(tower.conv1(x.transpose(1, 2))) * real[:, None]
    x = F.gelu(tower.conv2(x)).transpose(1, 2)
    x = x + tower.positions[: x.shape[1]]
    halves = (lens + 1) // 2
    bias = torch.where(torch.arange(x.shape[1], device=lens.device) < halves[:, None], 0.0, -1e4)[:, None, None]
    layers: Any = tower.layers
    for layer in layers:
        y = F.layer_norm(x.float(), (x.shape[-1],), layer.self_attn_layer_norm.weight, layer.self_attn_layer_norm.bias)
        q, k, v = layer.self_attn.qkv_proj(y).unflatten(-1, (3, layer.self_attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + layer.self_attn.out_proj(attention(q, k, v, bias.to(v.dtype)).transpose(1, 2).flatten(2))
        y = F.layer_norm(x.float(), (x.shape[-1],), layer.final_layer_norm.weight, layer.final_layer_norm.bias)
        x = x + layer.fc2(F.gelu(layer.fc1(y)))
    packed = torch.cat([row[:n] for row, n in zip(x, halves.tolist(), strict=True)])
    frames = []
    for part, _mel in zip(packed.split([sum((b + 1) // 2 for b in _cuts(m, size)) for m in mels]), mels, strict=True):
        frames.append(part[: len(part) // 2 * 2])
    pairs = torch.cat(frames).view(-1, 2, x.shape[-1]).mean(1)
    y = F.layer_norm(pairs.float(), (x.shape[-1],), tower.ln_post.weight, tower.ln_post.bias)
    rows: Tensor = tower.proj(y)
    return list(rows.split([len(f) // 2 for f in frames])), frames, y


def _cuts(mel: Tensor, size: int) -> list[int]:
    return [block.shape[1] for block in mel.split(size, 1)]


def rotary(decoder: Decoder, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos, sin `[B, 1, T, D / 2]` of positions `[3, B, T]`."""
    angle = positions[decoder.axes].permute(1, 2, 0).float() * decoder.inv_freq  # [B, T, D / 2]
    return angle.cos()[:, None], angle.sin()[:, None]


def decode(decoder: Decoder, x: Tensor, positions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Hidden rows `[B, T, C]` after the final norm, and those before and after each layer.

    Sequences are filled up at their ends.
    """
    after = [x]
    cos, sin = rotary(decoder, positions)
    eps = decoder.config.rms_norm_eps
    layers: Any = decoder.layers
    for layer in layers:
        attn = layer.self_attn
        q, k, v = (
            attn.qkv_proj(norm(x, layer.input_layernorm.weight, eps))
            .unflatten(-1, (sum(attn.heads), -1))
            .split(attn.heads, 2)
        )
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))  # [B, H or K, T, D]
        q, k = turn(q, cos, sin).to(v.dtype), turn(k, cos, sin).to(v.dtype)
        groups = attn.heads[0] // attn.heads[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = causal_attention(q, k, v)
        x = x + attn.o_proj(y.transpose(1, 2).flatten(2))
        gate, up = layer.mlp.gate_up_proj(norm(x, layer.post_attention_layernorm.weight, eps)).chunk(2, -1)
        x = x + layer.mlp.down_proj(F.silu(gate) * up)
        after.append(x)
    return norm(x, decoder.norm.weight, eps), after


def unstacked(
    state: Mapping[str, Tensor], stacks: Mapping[str, Sequence[str]], widths: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Published names for the stacked projections of omni's modules; `widths` are the rows of each part."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stack = next((s for s in stacks if f".{s}." in f".{name}"), None)
        if stack is None:
            out[name] = tensor
            continue
        for part, piece in zip(stacks[stack], tensor.split(list(widths[stack])), strict=True):
            out[name.replace(stack, part)] = piece.contiguous()
    return out
