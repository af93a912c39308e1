from __future__ import annotations

import pytest
import torch

from tests.talker import tiny


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
@pytest.mark.parametrize("num_frames", [5, 6, 67, 400])
def test_as_transformers(geometry: str, num_frames: int) -> None:
    mel = tiny.voice(geometry, num_frames=num_frames).ref_mel
    both = torch.stack((mel, torch.zeros_like(mel)))
    ours = tiny.vocoder(geometry).code2wav_dit_model.input_embed.spk_encoder(both)
    theirs = tiny.reference(geometry).code2wav_dit_model.input_embed.spk_encoder(both)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert ours[1].abs().max() > 0.01  # silence is no zero


@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
def test_rows_are_apart(geometry: str) -> None:
    encoder = tiny.vocoder(geometry).code2wav_dit_model.input_embed.spk_encoder
    a, b = (tiny.voice(geometry, seed).ref_mel for seed in (0, 1))
    torch.testing.assert_close(encoder(torch.stack((a, b)))[1], encoder(b[None])[0], rtol=0, atol=1e-6)
