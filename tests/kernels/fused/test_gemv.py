from __future__ import annotations

import pytest
import torch

from omni.kernels.fused import gemv as fused
from omni.kernels.plain import gemv as plain
from tests.kernels.near import assert_near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("M", "C", "O"), [(1, 5, 1), (1, 1100, 3), (3, 700, 7), (8, 33, 17)])
@pytest.mark.parametrize("few", [0, 2048], ids=["large", "small"])
def test_gemv(
    monkeypatch: pytest.MonkeyPatch, few: int, M: int, C: int, O: int, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(fused, "FEW", few)  # tiles of large matrices and of small ones
    x, weight, bias = (y.to(dtype) for y in (torch.randn(M, C), torch.randn(O, C + 3)[:, :C], torch.randn(O)))
    for b in (None, bias):
        there = (None if y is None else y.to(device) for y in (x, weight, b))
        wide = (None if y is None else y.double() for y in (x, weight, b))
        assert_near(fused.gemv(*there).cpu(), plain.gemv(*wide), plain.gemv(x, weight, b))
