"""How far a kernel may be from the truth."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_near(got: Tensor, truth: Tensor, own: Tensor) -> None:
    """`got` errs at most twice as far from the float64 truth as torch's own answer in the same dtype does.

    One rounding of the largest value is allowed in any case, since torch may hit the truth by luck.
    """
    assert got.dtype == own.dtype
    assert truth.dtype == torch.float64
    assert got.shape == truth.shape
    assert got.isfinite().all()
    allowed = 2 * _error(own, truth) + torch.finfo(got.dtype).eps * float(truth.abs().max())
    assert _error(got, truth) <= allowed


def _error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).abs().max())
