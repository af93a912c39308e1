import torch

from omni.kernels import BlockTable

CPU = torch.device("cpu")


def test_table() -> None:
    table = BlockTable.of(new=[3, 1], past=[2, 4], blocks=[[7, 2], [5, 0, 9]], block_size=4, device=CPU)
    assert table.segments.lens == (3, 1)
    assert table.kv_lens == (5, 5)
    assert table.kv_len.dtype == table.blocks.dtype == torch.int32
    assert table.kv_len.tolist() == [5, 5]
    assert table.blocks.tolist() == [[7, 2, 0], [5, 0, 9]]
    assert table.slots.dtype == torch.int64
    assert table.slots.tolist() == [7 * 4 + 2, 7 * 4 + 3, 2 * 4 + 0, 0 * 4 + 0]


def test_block_of_one_row() -> None:
    assert BlockTable.of([2], [1], [[3, 8, 6]], 1, CPU).slots.tolist() == [8, 6]
