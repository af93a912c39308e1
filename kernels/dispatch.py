"""Which twin of an operation runs: of every operation, on every device, decided here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar, TypeVarTuple

import torch

X = TypeVar("X")
Args = TypeVarTuple("Args")
R = TypeVar("R")
Twin = TypeVar("Twin", bound=Callable[..., Any])
_SUPPORTS: dict[Callable[..., Any], Callable[..., bool]] = {}


def dispatch(plain: Callable[[X, *Args], R], x: X, *args: *Args) -> R:
    """What an operation gives for these arguments, by its `twin`."""
    run = twin(plain, x, *args)
    if run is plain or not _is_elsewhere(x):
        return run(x, *args)
    with torch.cuda.device_of(x):  # Triton launches on the current one
        return run(x, *args)


def twin(plain: Callable[[X, *Args], R], x: X, *args: *Args) -> Callable[[X, *Args], R]:
    """The function of the same name and file under `fused/` or `native/` that supports these arguments; else the plain one.

    x, a tensor or a quantised weight, tells the device. A twin supports all that is not said otherwise by `supports`; those
    in Triton have no backward and no float64.
    """
    folder = folder_of(x)
    found, says = _named_as(plain, folder) if folder else (None, None)
    if found is None or (says is not None and not says(x, *args)):
        return plain
    return found


def supports(says: Callable[..., bool]) -> Callable[[Twin], Twin]:
    """Marks a twin with what tells from its arguments whether it supports them."""

    def mark(function: Twin) -> Twin:
        _SUPPORTS[function] = says
        return function

    return mark


def folder_of(x: Any) -> str | None:
    """Where twins for x's device lie."""
    return "native" if x.is_cpu else "fused" if x.is_cuda else None  # to ask for `x.device.type` takes a microsecond


def _is_elsewhere(x: Any) -> bool:
    """Whether it lies on another GPU than the current one."""
    return bool(x.is_cuda) and x.device.index != torch.cuda.current_device()


@functools.cache
def _named_as(plain: Callable[..., Any], folder: str) -> tuple[Any, Callable[..., bool] | None]:
    """The twin of that name, and what tells what it supports."""
    name = plain.__module__.replace(".plain.", f".{folder}.")
    if find_spec(name) is None or (folder == "fused" and find_spec("triton") is None):
        return None, None
    found: Any = getattr(importlib.import_module(name), plain.__name__, None)
    return found, _triton_supports if folder == "fused" else _SUPPORTS.get(found)


def _triton_supports(x: Any, *args: Any) -> bool:
    return not torch.is_grad_enabled() and x.dtype != torch.float64
