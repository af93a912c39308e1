"""A decoder advanced in chunks and in company equals one that reads all at once, alone."""

from __future__ import annotations

import pytest
import torch

from omni import Omni
from omni.engine import runner as batch
from omni.engine.block_manager import CachedSequence
from tests.oracle.tiny import GEOMETRIES, tiny


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_advance_in_chunks_equals_whole(geometry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Omni.load(tiny(geometry), dtype="float32", speech=False, progress=False).runtime.think.runner
    lens = (31, 8, 15)
    rows = [torch.randn(n, runner.decoder.config.hidden_size) for n in lens]
    # three axes that part, so that a chunk with another chunk's positions shows
    positions = [torch.stack((torch.arange(n) * 3, torch.arange(n), torch.arange(n) // 2)) for n in lens]
    alone = [runner.advance([CachedSequence()], [r], [p])[0] for r, p in zip(rows, positions, strict=True)]
    monkeypatch.setattr(batch, "CHUNK", 7)
    together = runner.advance([CachedSequence() for _ in lens], rows, positions)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=0)
