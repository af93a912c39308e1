import pytest
import torch

from omni.kernels import gemv


@pytest.mark.parametrize("M", [0, 1, 8, 9])
def test_gemv(M: int) -> None:
    x, weight, bias = torch.randn(M, 5), torch.randn(4, 5), torch.randn(4)
    torch.testing.assert_close(gemv(x, weight, bias), x @ weight.T + bias)
    torch.testing.assert_close(gemv(x.view(1, M, 5), weight), (x @ weight.T)[None])
