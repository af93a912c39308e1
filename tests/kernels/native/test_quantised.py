from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omni.kernels.quantised import dequantise_rows


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("x", [-1e30, -200.0, -88.0, -9.0, -1e-3, 0.0, 1e-30, 9.0, 88.0, 1e30])
def test_gelu_at_any_size(x: float) -> None:
    """Against sums that are 1, so that the bias alone is seen."""
    got = dequantise_rows(torch.zeros(1, 20), torch.ones(1, 1), torch.full((20,), x), fine=False, gelu=True)
    want = F.gelu(torch.tensor(x, dtype=torch.float64), approximate="tanh")
    assert ((got.double() - want).abs() <= 2e-6 * max(1.0, abs(float(want)))).all(), got[0, 0]
