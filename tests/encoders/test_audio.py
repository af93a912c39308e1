"""The audio tower: lengths, pieces, and transformers'."""

from __future__ import annotations

import pytest
import torch

from omni import Omni
from omni.encoders.audio import AudioTower, num_audio_tokens
from omni.encoders.features import Sound
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


def test_num_audio_tokens_by_hand() -> None:
    counts = {1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 100: 25, 200: 50, 431: 108, 30000: 7500}
    assert {f: num_audio_tokens(f) for f in counts} == counts


@pytest.mark.parametrize("frames", [3, 199, 200, 202, 203, 523])
@torch.inference_mode()
def test_pieces_equal_the_whole(frames: int) -> None:
    """Blocks are exactly independent; only the order of sums inside a product differs."""
    ours = tower("odd")
    sound = Sound(mel(ours, frames))
    pieces = ours.pieces(sound)
    assert ours.pieces(sound)[0] is pieces[0]
    assert all(piece.num_frames == ours.block_frames for piece in pieces[:-1])
    rows = [ours.encode([piece])[0] for piece in pieces]
    assert [len(r) for r in rows] == [ours.num_rows(piece) for piece in pieces]
    whole = ours.encode([sound])[0]
    assert len(whole) == ours.num_rows(sound)
    torch.testing.assert_close(torch.cat(rows), whole, atol=1e-5, rtol=0)
