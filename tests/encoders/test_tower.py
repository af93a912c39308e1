"""Both towers as one."""

from __future__ import annotations

import pytest
import torch

from omni import Omni
from omni.encoders.features import Medium, Picture, Sound
from omni.encoders.tower import Senses
from tests.oracle.tiny import tiny


@torch.inference_mode()
def test_media_of_both_kinds_keep_their_order() -> None:
    thinker = Omni.load(tiny("7b-like"), dtype="float32", speech=False, progress=False).model.thinker
    ears, eyes = thinker.audio_tower, thinker.visual
    sounds = [Sound(torch.randn(ears.config.num_mel_bins, n)) for n in (401, 7)]
    pictures = [Picture(torch.randn(t * 24, eyes.config.patch_dim), (t, 4, 6)) for t in (1, 3)]
    senses = Senses(ears, eyes)
    media: list[Medium] = [sounds[0], pictures[1], pictures[0], sounds[1]]
    assert [senses.num_rows(medium) for medium in media] == [100, 18, 6, 2]
    assert [len(senses.pieces(medium)) for medium in media] == [2, 3, 1, 1]
    for rows, medium in zip(senses.encode(media), media, strict=True):
        alone = ears.encode([medium]) if isinstance(medium, Sound) else eyes.encode([medium])
        torch.testing.assert_close(rows, alone[0], atol=1e-5, rtol=0)
    assert [len(rows) for rows in Senses(ears, None).encode(sounds)] == [100, 2]
    with pytest.raises(AssertionError, match="does not see"):
        Senses(ears, None).num_rows(pictures[0])
