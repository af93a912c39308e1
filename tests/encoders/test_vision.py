"""The vision tower: its window order by hand, its pieces, and transformers'."""

from __future__ import annotations

import pytest
import torch

from omni import Omni
from omni.encoders.features import Picture
from omni.encoders.vision import VisionTower
from tests.oracle.tiny import GEOMETRIES, reference, tiny

GRIDS = [(1, 10, 18), (3, 6, 4), (1, 2, 2), (2, 8, 8)]


def tower(geometry: str) -> VisionTower:
    found = Omni.load(tiny(geometry), dtype="float32", speech=False, progress=False).model.thinker.visual
    assert found
    return found


def patches(tower: VisionTower, *grids: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(sum(t * h * w for t, h, w in grids), tower.config.patch_dim)


def test_plan_of_ragged_windows() -> None:
    """5 x 9 cells in windows of 4 x 4: two full, one a column wide, and the last row of each."""
    plan = tower("7b-like").plan([(1, 10, 18)])
    assert plan.windows.lens == (64, 64, 16, 16, 16, 4)
    assert plan.frames.lens == (180,)
    assert plan.order[:5].tolist() == [0, 1, 2, 3, 9]
    assert plan.order[32:37].tolist() == [8, 17, 26, 35, 36]
    assert torch.equal(plan.order[plan.place], torch.arange(45))


def test_plan_keeps_temporal_grids_apart() -> None:
    plan = tower("7b-like").plan([(2, 8, 8), (1, 2, 2)])
    assert plan.windows.lens == (64, 64, 4)
    assert plan.frames.lens == (64, 64, 4)
    assert torch.equal(plan.cos[:64], plan.cos[64:128])
    assert torch.equal(plan.cos[:2], plan.cos[128:130])


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_forward_equals_transformers(geometry: str) -> None:
    ours = tower(geometry)
    x = patches(ours, *GRIDS)
    expected = reference(tiny(geometry), torch.float32).thinker.visual(x, grid_thw=torch.tensor(GRIDS)).pooler_output
    torch.testing.assert_close(ours(x, GRIDS), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_encode_of_several_equals_each_alone() -> None:
    ours = tower("odd")
    pictures = [Picture(patches(ours, grid), grid) for grid in GRIDS]
    for together, picture in zip(ours.encode(pictures), pictures, strict=True):
        torch.testing.assert_close(together, ours.encode([picture])[0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_pieces_equal_the_whole() -> None:
    ours = tower("7b-like")
    for grid in ((5, 6, 10), (1, 2, 2)):
        picture = Picture(patches(ours, grid), grid, 1.0)
        pieces = ours.pieces(picture)
        assert [piece.grid for piece in pieces] == [(1, *grid[1:])] * grid[0]
        assert ours.pieces(picture)[0] is pieces[0]
        rows = [ours.encode([piece])[0] for piece in pieces]
        assert sum(map(len, rows)) == sum(map(ours.num_rows, pieces)) == ours.num_rows(picture)
        torch.testing.assert_close(torch.cat(rows), ours.encode([picture])[0], atol=1e-5, rtol=0)
