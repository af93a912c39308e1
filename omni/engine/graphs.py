"""Steps of one row a sequence, replayed.

Steps of other sizes share a record: what is missing to its number of sequences is the first one once more, which writes the
same row to the same place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.kernels import BlockTable, Segments
from omni.kernels.replay import Replays
from omni.models.decoder import Decoder
from omni.models.kv_store import CachedSequence, PagePool

BATCHES = (1, 2, 4, 8, 16, 32)
"""Sequences of a record."""
WIDTHS = (8, 32, 128, 512)
"""Pages of its longest sequence: the launches of attention grow with them, not with what they hold."""
MOST = len(BATCHES) * len(WIDTHS)
AT_ONCE = tuple((batch, width) for batch in BATCHES[:3] for width in WIDTHS[:2])
"""What is recorded while loading; the rest when it is first needed."""
FIELDS = 5
"""Of a sequence's numbers before its pages: three positions, the rows it then holds, and where its row goes."""


class Steps:
    """Args:
        pool: the decoder's keys and values, at addresses that never change.

    Raises:
        DeviceError: the device cannot record.
    """

    def __init__(self, decoder: Decoder, pool: PagePool, replays: Replays) -> None:
        self._decoder, self._pool, self._replays = decoder, pool, replays
        weight = decoder.norm.weight
        for batch, width in AT_ONCE:  # the pool is empty, and its first row means nothing yet
            rows = torch.zeros(batch, decoder.config.hidden_size, dtype=weight.dtype, device=weight.device)
            self._run(rows, torch.zeros(batch, FIELDS + width, dtype=torch.int64, device="cpu"))

    @staticmethod
    def fit(sequences: Sequence[CachedSequence]) -> bool:
        """Whether one more row of each of these can be a recorded step."""
        return len(sequences) <= BATCHES[-1] and max(len(s.pages) for s in sequences) < WIDTHS[-1]

    def __call__(self, rows: Tensor, positions: Tensor, table: BlockTable) -> Tensor:
        """Hidden rows `[B, C]` of rows `[B, C]` at positions int64 `[3, B]`; positions and table lie in host memory."""
        num, pages = table.blocks.shape
        batch, width = (next(n for n in sizes if n >= least) for sizes, least in ((BATCHES, num), (WIDTHS, pages)))
        numbers = torch.zeros(batch, FIELDS + width, dtype=torch.int64, device="cpu")
        numbers[:num, :3] = positions.T
        numbers[:num, 3], numbers[:num, 4] = table.kv_len, table.slots
        numbers[:num, FIELDS : FIELDS + pages] = table.blocks
        numbers[num:] = numbers[0]
        return self._run(torch.cat((rows, rows[:1].expand(batch - num, -1))), numbers)[:num]

    def _run(self, rows: Tensor, numbers: Tensor) -> Tensor:
        (hidden,) = self._replays("step", self._step, rows, numbers.to(rows.device), at_once=True)
        return hidden

    def _step(self, rows: Tensor, numbers: Tensor) -> tuple[Tensor]:
        batch = len(rows)
        kv_len, slots, pages = numbers[:, 3].int(), numbers[:, 4].contiguous(), numbers[:, FIELDS:].int()
        cu_len = torch.arange(batch + 1, dtype=torch.int32, device=rows.device)
        # what the host would know is not known here, and not asked for
        table = BlockTable(Segments((1,) * batch, cu_len), (0,) * batch, kv_len, pages, slots, (-1,) * batch)
        return (self._decoder(rows, numbers[:, :3].T, self._pool, table),)
