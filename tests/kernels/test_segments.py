import pytest
import torch

from omni.kernels import Segments


@pytest.mark.parametrize(
    ("lens", "runs"),
    [
        ((), []),
        ((5,), [(0, 5, 1)]),
        ((4, 4, 4), [(0, 4, 3)]),
        ((64, 64, 16, 16, 16, 4), [(0, 64, 2), (128, 16, 3), (176, 4, 1)]),
        ((2, 1, 2), [(0, 2, 1), (2, 1, 1), (3, 2, 1)]),
    ],
)
def test_segments(lens: tuple[int, ...], runs: list[tuple[int, int, int]]) -> None:
    segments = Segments.of(iter(lens))
    assert segments.lens == lens
    assert segments.cu_len.dtype == torch.int32
    assert segments.cu_len.tolist() == [sum(lens[:i]) for i in range(len(lens) + 1)]
    assert segments.num_rows == sum(lens)
    assert list(segments.runs()) == runs


def test_no_empty_segment() -> None:
    with pytest.raises(AssertionError, match="never empty"):
        Segments.of([3, 0])
