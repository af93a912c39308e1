"""The audio tower: lengths, pieces, and transformers'."""

from __future__ import annotations

import pytest
import torch

from omni import Omni
from omni.encoders.audio import AudioTower
from omni.encoders.features import num_audio_tokens
from tests.oracle.tiny import GEOMETRIES, reference, tiny

LENGTHS = [523, 100, 3, 401, 200, 202]


def tower(geometry: str) -> AudioTower:
    found = Omni.load(tiny(geometry), dtype="float32", speech=False, progress=False).model.thinker.audio_tower
    assert found
    return found


def mel(tower: AudioTower, frames: int) -> torch.Tensor:
    return torch.randn(tower.config.num_mel_bins, frames).clamp(-1.5, 1.5)


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_forward_equals_transformers(geometry: str) -> None:
    ours = tower(geometry)
    mels = [mel(ours, n) for n in LENGTHS]
    theirs = reference(tiny(geometry), torch.float32).thinker.audio_tower
    expected = theirs(torch.cat(mels, 1), feature_lens=torch.tensor(LENGTHS)).last_hidden_state
    torch.testing.assert_close(torch.cat(ours(mels)), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_forward_gives_as_many_rows_as_are_announced() -> None:
    ours = tower("7b-like")
    lengths = [*range(3, 12), 199, 200, 201, 202, 203, 399, 400, 401]
    assert [len(rows) for rows in ours([mel(ours, n) for n in lengths])] == [num_audio_tokens(n) for n in lengths]


@pytest.mark.parametrize("frames", [3, 199, 200, 202, 523])
@pytest.mark.parametrize("piece", [1, 37, 200, 1000])
@torch.inference_mode()
def test_step_in_pieces_equals_whole(frames: int, piece: int) -> None:
    """Blocks are exactly independent; only the order of sums inside a product differs."""
    ours = tower("odd")
    x = mel(ours, frames)
    state = ours.start()
    rows = [ours.step(state, part) for part in x.split(piece, 1)]
    rows.append(ours.finish(state))
    torch.testing.assert_close(torch.cat(rows), ours([x])[0], atol=1e-5, rtol=0)
