"""Rows of media that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.encoders.features import Picture, Sound
from omni.engine.features import FeatureCache


def medium(value: float) -> Sound:
    return Sound(torch.full((2, 8), value, dtype=torch.float32))


def test_each_content_is_encoded_once_until_room_runs_out() -> None:
    encoded: list[float] = []

    def encode(media: Sequence[Sound | Picture]) -> list[Tensor]:
        values = [m.mel[0, 0] for m in media if isinstance(m, Sound)]
        encoded.extend(float(v) for v in values)
        return list(torch.stack([v.expand(4, 4) for v in values]))

    cache = FeatureCache(max_bytes=2 * 64)
    rows = cache.get([medium(1), medium(2), medium(1)], encode)
    assert [float(r[0, 0]) for r in rows] == [1, 2, 1]
    assert encoded == [1, 2]
    cache.get([medium(1)], encode)
    cache.get([medium(3)], encode)  # the second, not used for longest, goes
    assert cache.num_bytes == 128
    cache.get([medium(1), medium(3)], encode)
    assert encoded == [1, 2, 3]
    assert [float(r[0, 0]) for r in cache.get([medium(4), medium(5), medium(2)], encode)] == [4, 5, 2]
    assert cache.num_bytes == 128
    cache.forget()
    assert cache.num_bytes == 0


def test_what_differs_in_shape_or_kind_differs() -> None:
    patches = torch.zeros(4, 6)
    alike: list[Sound | Picture] = [
        Picture(patches, (1, 2, 2)),
        Picture(patches, (1, 4, 1)),
        Picture(patches.view(6, 4), (1, 2, 2)),
        Sound(patches),
    ]
    assert len({m.digest for m in alike}) == 4
    assert Picture(patches.clone(), (1, 2, 2), 0.5).digest == alike[0].digest, "the time between frames is the prompt's"
