"""A decode step is two tensors."""

from __future__ import annotations

import torch

from omni.engine.block_manager import CachedSequence
from omni.engine.step import Step


def test_numbers_say_where_rows_stand_and_where_they_go() -> None:
    sequences = [CachedSequence([7, 8, 3], 9), CachedSequence([2], 3)]
    positions = torch.tensor([[20, 5], [21, 5], [22, 6]])
    step = Step.of(torch.zeros(2, 6), positions, sequences, block_size=4)
    # positions, rows then held, slot, block table
    assert step.numbers.tolist() == [[20, 21, 22, 10, 3 * 4 + 1, 7, 8, 3], [5, 5, 6, 4, 2 * 4 + 3, 2, 0, 0]]
    assert step.numbers.dtype == torch.int64
