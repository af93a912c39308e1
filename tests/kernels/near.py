"""How far a kernel may be from the truth."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_near(got: Tensor, truth: Tensor, *own: Tensor) -> None:
    """`got` errs at most twice as far from the float64 truth as torch's own answer in the same dtype does.

    One rounding of the largest value is allowed in any case, since torch may hit the truth by luck. Where it sums a
    few numbers only, luck is common and goes by the processor: give its answers in several orders, the worst counts.
    """
    assert all(got.dtype == one.dtype for one in own)
    assert truth.dtype == torch.float64
    assert got.shape == truth.shape
    assert got.isfinite().all()
    theirs = max(_error(one, truth) for one in own)
    allowed = 2 * theirs + torch.finfo(got.dtype).eps * float(truth.abs().max())
    error = _error(got, truth)
    assert error <= allowed, f"{error:.3g} from the truth, torch {theirs:.3g}, allowed {allowed:.3g}"


def _error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).abs().max())
