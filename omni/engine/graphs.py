"""Steps of one row a sequence, recorded once and then launched with one call (CUDA graphs).

A step of a decoder is some three hundred launches of a few microseconds each, and Python needs longer to make them than the
GPU to run them. What a record reads and writes stays at its addresses, so that a step first puts its rows, positions and
pages there. Steps of other sizes share a record: what is missing to its number of sequences is the first one once more,
which writes the same row to the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from omni.cache import CachedSequence, PagePool
from omni.decoder import Decoder
from omni.errors import DeviceError
from omni.kernels import PageTable, Segments

BATCHES = (1, 2, 4, 8, 16, 32)
"""Sequences of a record."""
WIDTHS = (8, 32, 128, 512)
"""Pages of its longest sequence: the launches of attention grow with them, not with what they hold."""
AT_ONCE = tuple((batch, width) for batch in BATCHES[:3] for width in WIDTHS[:2])
"""What is recorded while loading; the rest when it is first needed."""
FIELDS = 5
"""Of a sequence's numbers before its pages: three positions, the rows it then holds, and where its row goes."""


class Recorder(Protocol):
    """Runs a function once and records what it launches: what launches the same again, and where its result then lies."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]: ...


class CudaRecorder:
    """CUDA graphs of one device, in memory that they share, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._memory = device, torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # kernels are compiled, and libraries take their workspace
                run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                out = run()

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay, out


@dataclass(frozen=True)
class Record:
    """Attributes:
    rows: `[B, C]`.
    numbers: int64 `[B, FIELDS + M]`, see FIELDS.
    out: `[B, C]`, written by `replay`.
    """

    rows: Tensor
    numbers: Tensor
    replay: Callable[[], None]
    out: Tensor


class Steps:
    """The recorded steps of a decoder.

    Args:
        pool: its keys and values, at addresses that never change.

    Raises:
        DeviceError: the device cannot record.
    """

    def __init__(self, decoder: Decoder, pool: PagePool, record: Recorder) -> None:
        self._decoder, self._pool, self._record = decoder, pool, record
        self._records: dict[tuple[int, ...], Record] = {}
        weight = decoder.norm.weight
        for batch, width in AT_ONCE:  # the pool is empty, and its first row means nothing yet
            rows = torch.zeros(batch, decoder.config.hidden_size, dtype=weight.dtype, device=weight.device)
            self._recorded(rows, torch.zeros(batch, FIELDS + width, dtype=torch.int64, device="cpu"))

    @staticmethod
    def fit(sequences: Sequence[CachedSequence]) -> bool:
        """Whether one more row of each of these can be a recorded step."""
        return len(sequences) <= BATCHES[-1] and max(len(s.pages) for s in sequences) < WIDTHS[-1]

    def __call__(self, rows: Tensor, positions: Tensor, table: PageTable) -> Tensor:
        """Hidden rows `[B, C]` of rows `[B, C]` at positions int64 `[3, B]`; positions and table lie in host memory."""
        num, pages = table.pages.shape
        batch, width = (next(n for n in sizes if n >= least) for sizes, least in ((BATCHES, num), (WIDTHS, pages)))
        numbers = torch.zeros(batch, FIELDS + width, dtype=torch.int64, device="cpu")
        numbers[:num, :3] = positions.T
        numbers[:num, 3], numbers[:num, 4] = table.kv_len, table.slots
        numbers[:num, FIELDS : FIELDS + pages] = table.pages
        numbers[num:] = numbers[0]
        step = self._recorded(torch.cat((rows, rows[:1].expand(batch - num, -1))), numbers)
        step.replay()
        return step.out[:num].clone()

    @torch.inference_mode()
    def _recorded(self, rows: Tensor, numbers: Tensor) -> Record:
        """The record of this size, holding these rows and numbers."""
        if step := self._records.get(tuple(numbers.shape)):
            step.rows.copy_(rows)
            step.numbers.copy_(numbers)
            return step
        rows, numbers = rows.clone(), numbers.to(rows.device)
        batch = len(rows)
        segments = Segments.of((1,) * batch, rows.device)

        def run() -> Tensor:
            kv_len, slots, pages = numbers[:, 3].int(), numbers[:, 4].contiguous(), numbers[:, FIELDS:].int()
            table = PageTable(segments, (0,) * batch, kv_len, pages, slots, (-1,) * batch)
            return self._decoder(rows, numbers[:, :3].T, self._pool, table)

        try:
            replay, out = self._record(run)
        except RuntimeError as e:
            raise DeviceError(
                f"{rows.device} cannot record a step of {batch} sequences ({e}); load with graphs=False"
            ) from e
        return self._records.setdefault(tuple(numbers.shape), Record(rows, numbers, replay, out))
