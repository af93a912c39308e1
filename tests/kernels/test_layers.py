from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omni.kernels.layers import Embedding, Linear


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@torch.no_grad()
def test_linear_takes_rows_of_any_rank(shape: tuple[int, ...]) -> None:
    layer, x = Linear(7, 5), torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_an_embedding_draws_its_weight_unless_it_is_on_meta() -> None:
    assert Embedding(50, 40).weight.std() > 0.5
    torch.manual_seed(0)
    Embedding(50, 40, device="meta")
    seen = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), seen)
