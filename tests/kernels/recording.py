"""A stand-in for CUDA graphs: it keeps each operation that torch was asked for, with the very tensors, and does it again.

What the caller of a record does on the host between two replays then changes nothing, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ASKS_THE_DEVICE = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"}
"""What a GPU cannot record: the host would have to wait for a value."""


class Recording(TorchDispatchMode):
    """Keeps operations with the tensors they had, and what they gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.kept: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name().split(".")[0] not in ASKS_THE_DEVICE, f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.kept.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, before in self.kept:
            again = func(*args, **kwargs)
            for kept, new in zip(_tensors(before), _tensors(again), strict=True):
                if kept.data_ptr() != new.data_ptr():  # neither a view nor written in place
                    kept.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):  # as nearly always
        return [tree]
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found


def stand_in(run: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
    run()
    with Recording() as recording:
        out = run()
    return recording.replay, out
