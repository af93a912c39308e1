"""Keys and values of a decoder's layers, in blocks of rows. Which block is whose, `omni.engine.block_manager` says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.models.config import DecoderConfig


class KVStore:
    """Attributes:
    keys, values: `[L, num_blocks, P, K, D]`; what was never written means nothing.
    """

    def __init__(self, config: DecoderConfig, *, block_size: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.num_layers, 0, block_size, config.num_kv_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def num_blocks(self) -> int:
        return self.keys.shape[1]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row's keys and values in all layers."""
        num_layers, _, _, num_heads, head_dim = self.keys.shape
        return 2 * num_layers * num_heads * head_dim * self.keys.element_size()

    def grow(self, num_blocks: int) -> None:
        """Have so many blocks in all; those that there are keep their numbers, and move in memory."""
        if num_blocks > self.num_blocks:
            self.keys, self.values = (_longer(x, num_blocks) for x in (self.keys, self.values))

    def copy(self, block: int, to: int) -> None:
        for x in (self.keys, self.values):
            x[:, to] = x[:, block]

    def save(self, blocks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copies of blocks' keys and values in host memory, `[L, len(blocks), P, K, D]`."""
        at = self._index(blocks)
        return _to_host(self.keys, at), _to_host(self.values, at)

    def restore(self, saved: tuple[Tensor, Tensor], blocks: Sequence[int]) -> None:
        """Write saved keys and values into other blocks, as many as they were."""
        at = self._index(blocks)
        for x, rows in zip((self.keys, self.values), saved, strict=True):
            for layer, host in zip(x, rows, strict=True):
                layer.index_copy_(0, at, host.to(x.device))

    def _index(self, blocks: Sequence[int]) -> Tensor:
        return torch.tensor(blocks, dtype=torch.int64, device=self.device)


def _to_host(x: Tensor, at: Tensor) -> Tensor:
    host = torch.empty(len(x), len(at), *x.shape[2:], dtype=x.dtype, device="cpu")
    for layer, out in zip(x, host, strict=True):  # at once, the gathered blocks might not fit on the device
        out.copy_(layer[at])
    return host


def _longer(x: Tensor, num_blocks: int) -> Tensor:
    new = x.new_empty(x.shape[0], num_blocks, *x.shape[2:])
    new[:, : x.shape[1]] = x
    return new
