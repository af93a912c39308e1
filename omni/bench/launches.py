"""How many kernels a piece of the model launches on a GPU and how many bytes they move, counted exactly and without one.

The model runs on meta tensors, which have shapes and no memory. Operations of torch are seen on their way to the device;
contracts take their Triton twins, whose launches are counted instead of made. Needs triton.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omni.kernels import dispatch

NO_KERNEL = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
PICKS = {"embedding", "index", "index_select", "gather"}  # read of their table only what they give
BLOCK_WRITER = "rotate_write_kernel"  # touches a few rows of its blocks


@dataclass
class Tally:
    """Attributes:
    launches: by operation of torch or by Triton kernel.
    moved: bytes that launches read and write, each tensor once a launch; of a cache, all of it.
    """

    launches: Counter[str] = field(default_factory=Counter)
    moved: int = 0

    def add(self, name: str, moved: int) -> None:
        self.launches[name] += 1
        self.moved += moved


@contextmanager
def counted() -> Iterator[Tally]:
    """Counts what runs on meta tensors inside."""
    tally = Tally()

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        name = self.fn.__name__
        named = dict(zip(self.arg_names, args, strict=False)) | kwargs
        writes = name == BLOCK_WRITER
        touched = [x for key, x in named.items() if not (writes and key.endswith("_cache"))]
        tally.add(name, _bytes(touched) + (_bytes([named["p_k"], named["p_v"]]) if writes else 0))

    with (
        patch.object(_kernel_class(), "run", run),
        patch.object(dispatch, "folder_of", lambda x: "fused" if x.is_meta else None),
        torch.no_grad(),
        _Operations(tally),
    ):
        yield tally


@functools.cache
def _kernel_class() -> type:
    """What `@triton.jit` makes in this process: something to compile, or to interpret."""
    return type(triton.jit(_nothing))


def _nothing() -> None:
    pass


class _Operations(TorchDispatchMode):
    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.tally = tally

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        made = [x for x in tree_leaves(out) if _is_meta(x)]
        if made and not func.is_view and name not in NO_KERNEL:
            given = [x for x in tree_leaves((args, kwargs)) if _is_meta(x)]
            read = _bytes(made) + _bytes(given[1:]) if name in PICKS else _bytes(given)
            self.tally.add(name, read + _bytes([x for x in made if all(x is not y for y in given)]))
        return out


def _is_meta(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_meta


def _bytes(values: list[Any]) -> int:
    """Of the tensors among them, each once; what a dimension repeats counts once."""
    tensors = {id(x): x for x in values if isinstance(x, Tensor)}.values()
    return sum(x.element_size() * _distinct(x) for x in tensors)


def _distinct(x: Tensor) -> int:
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride or not size else 1
    return count
