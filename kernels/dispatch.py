"""Which twin of an operation runs: of every operation, on every device, decided here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
Twin = TypeVar("Twin", bound=Callable[..., Any])
FOLDERS = {"cuda": "fused", "cpu": "native"}
"""Where the twins for a kind of device lie."""
_SUPPORTS: dict[Callable[..., Any], Callable[..., bool]] = {}


def dispatch(plain: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What an operation gives for these arguments, by its `twin`."""
    run, device = twin(plain, *args, **kwargs), args[0].device  # type: ignore[attr-defined]  # as `twin` says
    if run is plain or device.type != "cuda" or device.index == torch.cuda.current_device():
        return run(*args, **kwargs)
    with torch.cuda.device(device):  # Triton launches on the current one
        return run(*args, **kwargs)


def twin(plain: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
    """The function of the same name and file under `fused/` or `native/` that supports these arguments; else the plain one.

    The first argument, a tensor or a quantised weight, tells the device. A twin supports all that is not said otherwise by
    `supports`; those in Triton have no backward and no float64.
    """
    x: Any = args[0]
    folder = FOLDERS.get(x.device.type, "")
    found: Callable[P, R] | None = getattr(_module(plain.__module__, folder), plain.__name__, None)
    if found is None or (folder == "fused" and (torch.is_grad_enabled() or x.dtype == torch.float64)):
        return plain
    says = _SUPPORTS.get(found)
    return found if says is None or says(*args, **kwargs) else plain


def supports(says: Callable[..., bool]) -> Callable[[Twin], Twin]:
    """Marks a twin with what tells from its arguments whether it supports them."""

    def mark(function: Twin) -> Twin:
        _SUPPORTS[function] = says
        return function

    return mark


@functools.cache
def _module(plain: str, folder: str) -> ModuleType | None:
    name = plain.replace(".plain.", f".{folder}.")
    here = folder and find_spec(name) and (folder != "fused" or find_spec("triton"))
    return importlib.import_module(name) if here else None
