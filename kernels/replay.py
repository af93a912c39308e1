"""Launches that are recorded once and then made again with one call (CUDA graphs).

A step of a decoder is some three hundred launches of a few microseconds each, a solve of the flow-matching transformer ten
thousand; Python needs longer to make them than a GPU to run them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from omni.errors import DeviceError

T = TypeVar("T")
Run: TypeAlias = Callable[..., Sequence[Tensor]]
REMEMBERED = 8
"""Times as many shapes as are recorded."""


class Recorder(Protocol):
    """Runs a function once and records what it launches: what launches the same again, and where its results then lie."""

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]: ...


class CudaRecorder:
    """CUDA graphs of one device, in memory that they share, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._memory = device, torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        with torch.cuda.device(self._device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # kernels are compiled, and libraries take their workspace
                run()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                outputs = run()

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay, outputs


@dataclass(frozen=True)
class Record:
    """What a recorded function reads and writes, always at the same addresses."""

    inputs: Sequence[Tensor]
    replay: Callable[[], None]
    outputs: Sequence[Tensor]


class Replays:
    """Functions of tensors, recorded for each set of shapes.

    What a function launches must depend on the name it is given and on its inputs' shapes alone, and what it reads beside
    its inputs must stay as it is.

    Args:
        most: records that are kept; the least recently used goes.
    """

    def __init__(self, record: Recorder, most: int) -> None:
        self._record, self._most = record, most
        self._records: OrderedDict[Hashable, Record] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()  # once, and not recorded

    @torch.inference_mode()
    def __call__(self, name: Hashable, run: Run, *inputs: Tensor, at_once: bool = False) -> Sequence[Tensor]:
        """What `run` returns for these inputs; the caller's own, which no later call changes.

        at_once: record at the first call; otherwise that runs as it is, since many shapes never come again.

        Raises:
            DeviceError: the device cannot record.
        """
        key = name, tuple((x.shape, x.dtype) for x in inputs)
        record = self._records.get(key)
        if record is not None:
            for kept, new in zip(record.inputs, inputs, strict=True):
                kept.copy_(new)
        elif at_once or key in self._seen:
            record = self._recorded(run, inputs)
            self._seen.pop(key, None)
        else:
            _put(self._seen, key, None, REMEMBERED * self._most)
            return run(*inputs)
        _put(self._records, key, record, self._most)
        record.replay()
        return [x.clone() for x in record.outputs]

    def _recorded(self, run: Run, inputs: Sequence[Tensor]) -> Record:
        own = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        try:
            replay, outputs = self._record(lambda: run(*own))
        except RuntimeError as e:
            raise DeviceError(f"{own[0].device} cannot record what it runs ({e}); load with graphs=False") from e
        return Record(own, replay, outputs)


def _put(kept: OrderedDict[Hashable, T], key: Hashable, value: T, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def replays_on(device: torch.device, most: int) -> Replays | None:
    """For a GPU; None elsewhere, where launches cost nothing."""
    return Replays(CudaRecorder(device), most) if device.type == "cuda" else None
