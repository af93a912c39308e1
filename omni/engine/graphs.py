"""Decode steps, replayed.

Steps of other sizes share a record: what is missing to its number of sequences is the first one once more, which writes the
same row to the same place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omni.engine.step import AXES, FIELDS, LocalRunner, Step, block_table
from omni.kernels.replay import Replays
from omni.models.decoder import Decoder
from omni.models.kv_store import KVStore

BATCHES = (1, 2, 4, 8, 16, 32)
"""Sequences of a record."""
WIDTHS = (8, 32, 128, 512)
"""Blocks of its longest sequence: the launches of attention grow with them, not with what they hold."""
MOST = len(BATCHES) * len(WIDTHS)
AT_ONCE = tuple((batch, width) for batch in BATCHES[:3] for width in WIDTHS[:2])
"""What is recorded while loading; the rest when it is first needed."""


class RecordedRunner:
    """Args:
        store: the decoder's keys and values, at addresses that never change.

    Raises:
        DeviceError: the device cannot record.
    """

    def __init__(self, decoder: Decoder, store: KVStore, replays: Replays) -> None:
        self._decoder, self._store, self._replays = decoder, store, replays
        self._local = LocalRunner(decoder, store)
        weight = decoder.norm.weight
        for batch, width in AT_ONCE:  # the store is empty, and its first row means nothing yet
            rows = torch.zeros(batch, decoder.config.hidden_size, dtype=weight.dtype, device=weight.device)
            self._run(Step(rows, torch.zeros(batch, FIELDS + width, dtype=torch.int64, device="cpu")))

    def __call__(self, step: Step) -> Tensor:
        return self._run(padded(step))[: len(step.rows)] if fits(step) else self._local(step)

    def _run(self, step: Step) -> Tensor:
        (hidden,) = self._replays("step", self._step, step.rows, step.numbers.to(step.rows.device), at_once=True)
        return hidden

    def _step(self, rows: Tensor, numbers: Tensor) -> tuple[Tensor]:
        # what the host would know is not known here, and not asked for
        table = block_table(numbers, (0,) * len(rows), (-1,) * len(rows))
        return (self._decoder(rows, numbers[:, :AXES].T, self._store, table),)


def fits(step: Step) -> bool:
    """Whether there can be a record of such a step."""
    return len(step.rows) <= BATCHES[-1] and step.numbers.shape[1] - FIELDS <= WIDTHS[-1]


def padded(step: Step) -> Step:
    """The step with as many sequences and blocks as a record has."""
    num, width = len(step.rows), step.numbers.shape[1]
    batch = next(n for n in BATCHES if n >= num)
    numbers = torch.zeros(batch, FIELDS + next(n for n in WIDTHS if n >= width - FIELDS), dtype=torch.int64, device="cpu")
    numbers[:num, :width] = step.numbers
    numbers[num:] = numbers[0]
    return Step(torch.cat((step.rows, step.rows[:1].expand(batch - num, -1))), numbers)
