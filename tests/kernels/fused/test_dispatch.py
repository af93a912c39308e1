from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from omni import kernels
from omni.kernels.dispatch import twin
from omni.kernels.fused import activation, gemv, norm, pages, rotary
from omni.kernels.plain import norm as plain


def on_gpu(dtype: torch.dtype, index: int = 0) -> Any:
    return SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda", index))


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert twin(plain, torch.empty(1)) is plain
    assert twin(plain, on_gpu(torch.float32)) is twin(plain, on_gpu(torch.bfloat16)) is norm
    assert twin(plain, on_gpu(torch.float64)) is plain
    with torch.enable_grad():
        assert twin(plain, on_gpu(torch.float32)) is plain


def test_another_gpu_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = MagicMock()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(norm, "rms_norm", lambda *args: (args, guard().__enter__.called, guard().__exit__.called))
    assert twin(plain, on_gpu(torch.float32, 1)).rms_norm(1, 2) == ((1, 2), True, False)
    assert guard.call_args_list[0].args == (torch.device("cuda", 1),)
    assert guard().__exit__.called


def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, device="cuda") for shape in shapes]


def paged() -> list[Any]:
    return [*drawn((6, 3, 2, 8), (6, 3, 2, 8)), kernels.PageTable.of([5], [1], [[4, 1]], 3, torch.device("cuda"))]


CASES: list[tuple[ModuleType, str, Any]] = [
    (norm, "rms_norm", lambda: (*drawn((3, 8), (8,)), 1e-6)),
    (norm, "add_rms_norm", lambda: (*drawn((3, 8), (3, 8), (8,)), 1e-6)),
    (norm, "layer_norm", lambda: (*drawn((3, 8), (8,), (8,)), 1e-6)),
    (norm, "ada_layer_norm", lambda: (*drawn((3, 8), (8,), (8,)), 1e-6)),
    (activation, "silu_mul", lambda: drawn((3, 8))),
    (activation, "gelu_tanh", lambda: drawn((3, 8))),
    (activation, "up_snake_down", lambda: drawn((1, 2, 9), (2,), (2,), (12,))),
    (rotary, "rotate", lambda: drawn((5, 2, 8), (5, 4), (5, 4))),
    (rotary, "rotate_write", lambda: [*drawn((5, 4, 8), (5, 2, 8), (5, 2, 8), (5, 4), (5, 4)), *paged()]),
    (pages, "write_pages", lambda: [*drawn((5, 2, 8), (5, 2, 8)), *paged()]),
    (gemv, "gemv", lambda: drawn((3, 8), (5, 8), (5,))),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("module", "name", "args"), CASES, ids=[name for _, name, _ in CASES])
def test_contract_takes_its_twin(module: ModuleType, name: str, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Mock(wraps=getattr(module, name))
    monkeypatch.setattr(module, name, spy)
    getattr(kernels, name)(*args())
    torch.cuda.synchronize()
    spy.assert_called_once()
