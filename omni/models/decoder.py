"""The text decoder, of the thinker and of the talker: norms before, SwiGLU, rotary halves, grouped heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from omni.kernels import BlockTable, add_rms_norm, attend_paged, rms_norm, rotary_table, rotate, rotate_write, silu_mul
from omni.kernels.layers import Linear
from omni.models.config import DecoderConfig
from omni.models.kv_store import KVStore
from omni.models.rotary import frequencies

STACKS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


Tap: TypeAlias = Callable[[Tensor, Tensor], None]


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        width = config.num_heads * config.head_dim
        self.qkv_proj = Linear(config.hidden_size, sum(self.heads) * config.head_dim, config.qkv_bias)
        self.o_proj = Linear(width, config.hidden_size, config.o_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, table: BlockTable, tap: Tap | None
    ) -> Tensor:
        q, k, v = self.qkv_proj(x).view(len(x), sum(self.heads), -1).split(self.heads, 1)  # [N, H or K, D]
        if self.q_norm and self.k_norm:
            q, k = rms_norm(q, self.q_norm.weight, self.q_norm.eps), rms_norm(k, self.k_norm.weight, self.k_norm.eps)
        if tap:
            tap(rotate(q, cos, sin), rotate(k, cos, sin))
        q = rotate_write(q, k, v, cos, sin, keys, values, table)
        return self.o_proj(attend_paged(q, keys, values, table).flatten(1))


class MLP(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu_mul(self.gate_up_proj(x)))


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)


class Decoder(nn.Module):
    inv_freq: Tensor
    axes: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.register_buffer("inv_freq", frequencies(config), persistent=False)
        self.register_buffer("axes", torch.tensor(config.axes, device="cpu"), persistent=False)

    def forward(self, x: Tensor, positions: Tensor, store: KVStore, table: BlockTable, tap: Tap | None = None) -> Tensor:
        """Run new rows of several sequences, whose earlier rows lie in the store.

        Args:
            x: `[N, C]`, packed as `table.segments` says.
            positions: `[3, N]`, time, height and width of each row.
            store: gets the rows' keys and values.
            tap: is shown each layer's turned queries `[N, H, D]` and keys `[N, K, D]`.

        Returns:
            `[N, C]`, after the final norm.
        """
        eps = self.config.rms_norm_eps
        cos, sin = self._turns(positions, x.dtype)
        residual = x
        x = rms_norm(x, self.layers[0].input_layernorm.weight, eps)
        for i, layer in enumerate(self.layers):
            x = layer.self_attn(x, cos, sin, store.keys[i], store.values[i], table, tap)
            x, residual = add_rms_norm(x, residual, layer.post_attention_layernorm.weight, eps)
            following = self.layers[i + 1].input_layernorm if i + 1 < len(self.layers) else self.norm
            x, residual = add_rms_norm(layer.mlp(x), residual, following.weight, eps)
        return x

    def _turns(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[N, D / 2]` of each row's angles."""
        yarn = self.config.rope_scaling
        if yarn is None:
            return rotary_table(positions, self.inv_freq, self.axes, dtype)
        cos, sin = rotary_table(positions, self.inv_freq, self.axes, torch.float32)
        return (cos * yarn.attention_factor).to(dtype), (sin * yarn.attention_factor).to(dtype)
