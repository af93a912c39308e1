"""Which twin of an operation runs."""

from __future__ import annotations

import functools
import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def twin(plain: ModuleType, x: Tensor) -> ModuleType:
    """The Triton twin of a plain module for a CUDA tensor in a process with Triton; else the plain module.

    The Triton twins have no backward and no float64, so that these stay plain.
    """
    if not on_gpu(x) or x.dtype == torch.float64 or torch.is_grad_enabled():
        return plain
    fused = _fused(plain)
    return _Elsewhere(fused, x.device) if x.is_cuda and x.device.index != torch.cuda.current_device() else fused


def on_gpu(x: Tensor) -> bool:
    return x.is_cuda


@functools.cache
def _fused(plain: ModuleType) -> ModuleType:
    if find_spec("triton") is None:
        return plain
    return importlib.import_module(plain.__name__.replace(".plain.", ".fused."))


class _Elsewhere(ModuleType):
    """A module's functions on another GPU than the current one, which is where Triton would launch."""

    def __init__(self, module: ModuleType, device: torch.device) -> None:
        super().__init__(module.__name__)
        self._module, self._device = module, device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)

        @functools.wraps(function)
        def there(*args: Any, **kwargs: Any) -> Any:
            with torch.cuda.device(self._device):
                return function(*args, **kwargs)

        return there
