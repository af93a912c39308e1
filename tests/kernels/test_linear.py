from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omni.kernels import linear_gelu
from tests.kernels.near import assert_near


# sums of two lengths that oneDNN takes in float32, and of one that it does not
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 5, 3), (37, 80, 129), (29, 1030, 513)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_gelu(has_bias: bool, dtype: torch.dtype, rows: int, inner: int, outer: int) -> None:
    x, weight = torch.randn(rows, inner).to(dtype), (torch.randn(outer, inner) / inner**0.5).to(dtype)
    bias = torch.randn(outer).to(dtype) if has_bias else None
    truth = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    own = F.gelu(F.linear(x, weight, bias), approximate="tanh")
    assert_near(linear_gelu(x, weight, bias), F.gelu(truth, approximate="tanh"), own)


def test_gradient_passes() -> None:
    x, weight = torch.randn(3, 60), torch.randn(70, 60, requires_grad=True)
    linear_gelu(x, weight, None).sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
