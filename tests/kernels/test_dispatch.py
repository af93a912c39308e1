from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from omni import kernels
from omni.kernels import linear, quantised
from omni.kernels.dispatch import _named_as, dispatch, twin
from omni.kernels.fused import activation, attention, norm, rotary
from omni.kernels.fused import linear as fused_linear
from omni.kernels.native import attention as native_attention
from omni.kernels.native import norm as native_norm
from omni.kernels.native import rotary as native_rotary
from omni.kernels.plain import attention as plain_attention
from omni.kernels.plain import norm as plain
from omni.kernels.plain import rotary as plain_rotary

WEIGHT = torch.ones(4)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Tests put other functions in a twin's place."""
    _named_as.cache_clear()
    yield
    _named_as.cache_clear()


def on_gpu(dtype: torch.dtype, index: int = 0) -> Any:
    return SimpleNamespace(is_cpu=False, is_cuda=True, dtype=dtype, device=torch.device("cuda", index))


@torch.no_grad()
def test_a_gpu_takes_triton_without_float64_and_gradients() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert twin(plain.rms_norm, on_gpu(dtype), WEIGHT, 1e-6) is norm.rms_norm
    assert twin(plain.rms_norm, on_gpu(torch.float64), WEIGHT, 1e-6) is plain.rms_norm
    with torch.enable_grad():
        assert twin(plain.rms_norm, on_gpu(torch.float32), WEIGHT, 1e-6) is plain.rms_norm


def test_a_cpu_takes_what_supports_it() -> None:
    x, angles = torch.randn(3, 2, 8), torch.randn(3, 4)
    assert twin(plain.layer_norm, x, None, None, 1e-6) is plain.layer_norm  # has no twin
    half = x.bfloat16()
    assert twin(plain.rms_norm, half, half[0, 0], 1e-6) is native_norm.rms_norm
    assert twin(plain.rms_norm, half, x[0, 0], 1e-6) is plain.rms_norm
    assert twin(plain.rms_norm, x, x[0, 0], 1e-6) is plain.rms_norm  # as transformers computes it
    assert twin(plain_rotary.rotate, x, angles, angles, True) is native_rotary.rotate
    assert twin(plain_rotary.rotate, x, angles, angles, False) is plain_rotary.rotate
    assert twin(plain_rotary.rotate, x.bfloat16(), angles.bfloat16(), angles.bfloat16(), True) is plain_rotary.rotate
    segments = kernels.Segments.of([3])
    assert twin(plain_attention.attend, x, x, x, segments, True, None, None) is native_attention.attend


def test_no_device_takes_no_twin() -> None:
    x = torch.empty(3, 2, 8, device="meta")
    assert twin(plain_attention.attend, x, x, x, kernels.Segments.of([3]), True, None, None) is plain_attention.attend


@torch.no_grad()
def test_another_gpu_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, x = MagicMock(), on_gpu(torch.float32, 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_of", guard)
    monkeypatch.setattr(norm, "rms_norm", lambda *args: (args, guard().__enter__.called, guard().__exit__.called))
    got: Any = dispatch(plain.rms_norm, x, WEIGHT, 1e-6)
    assert got == ((x, WEIGHT, 1e-6), True, False)
    assert guard.call_args_list[0].args == (x,)
    assert guard().__exit__.called


def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, device="cuda") for shape in shapes]


def paged() -> list[Any]:
    return [*drawn((6, 3, 2, 8), (6, 3, 2, 8)), kernels.BlockTable.of([5], [1], [[4, 1]], 3, torch.device("cuda"))]


CASES: list[tuple[ModuleType, str, Any]] = [
    (norm, "rms_norm", lambda: (*drawn((3, 8), (8,)), 1e-6)),
    (norm, "add_rms_norm", lambda: (*drawn((3, 8), (3, 8), (8,)), 1e-6)),
    (norm, "layer_norm", lambda: (*drawn((3, 8), (8,), (8,)), 1e-6)),
    (activation, "silu_mul", lambda: drawn((3, 8))),
    (activation, "gelu_tanh", lambda: drawn((3, 8))),
    (activation, "up_snake_down", lambda: drawn((1, 2, 9), (2,), (2,), (12,))),
    (attention, "attend_paged", lambda: [*drawn((5, 4, 8)), *paged()]),
    (rotary, "rotate", lambda: drawn((5, 2, 8), (5, 4), (5, 4))),
    (rotary, "rotate_write", lambda: [*drawn((5, 4, 8), (5, 2, 8), (5, 2, 8), (5, 4), (5, 4)), *paged()]),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("module", "name", "args"), CASES, ids=[name for _, name, _ in CASES])
@torch.no_grad()
def test_contract_takes_its_twin(module: ModuleType, name: str, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Mock(wraps=getattr(module, name))
    monkeypatch.setattr(module, name, spy)
    getattr(kernels, name)(*args())
    torch.cuda.synchronize()
    spy.assert_called_once()


@pytest.mark.gpu
@torch.no_grad()
def test_linear_takes_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Mock(wraps=fused_linear.linear)
    monkeypatch.setattr(fused_linear, "linear", spy)
    x, weight = drawn((3, 64), (5, 64))
    linear.linear(x, quantised.quantise_int8(weight))
    torch.cuda.synchronize()
    spy.assert_called_once()
