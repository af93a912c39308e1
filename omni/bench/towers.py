"""The towers: what is heard and seen becomes rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from omni.bench.case import Case, Setting, depth_of, name_of, normal, weights
from omni.bench.models import Both, both


def audio(s: Setting) -> Iterator[Case]:
    if s.shape.config.thinker.audio is None:
        return
    pair = both(s.shape, "thinker.audio_tower.", dtype=s.dtype, device=s.device, depth=s.sizes.depth)
    frames = round(100 * s.sizes.sound)
    yield hears(pair, frames, s)


def hears(pair: Both, frames: int, s: Setting) -> Case:
    """So many frames of log-mel through the audio tower."""
    ours, ref = pair.ours.thinker.audio_tower, pair.theirs.thinker.audio_tower if pair.theirs else None
    assert ours
    mel = torch.randn(ours.config.num_mel_bins, frames, device=s.device)
    body, first, second = weights(ours.layers), ours.conv1.weight.numel(), ours.conv2.weight.numel()
    lens = torch.tensor([frames], device=s.device)
    return Case(
        "audio tower",
        f"{name_of(s.dtype)}, {depth_of(len(ours.layers), s, 'thinker.audio_tower.')}, {frames / 100:g} s",
        lambda: ours([mel])[0],
        (lambda: ref(mel, feature_lens=lens)[0]) if ref else None,
        s.dtype,
        moved=body.nbytes,
        operations=frames * (body.products + 2 * first + second),
    )


def vision(s: Setting) -> Iterator[Case]:
    if s.shape.config.thinker.vision is None:
        return
    pair = both(s.shape, "thinker.visual.", dtype=s.dtype, device=s.device, depth=s.sizes.depth)
    yield sees(pair, s.sizes.image, s)


def sees(pair: Both, side: int, s: Setting) -> Case:
    """A square picture through the vision tower."""
    ours, ref = pair.ours.thinker.visual, pair.theirs.thinker.visual if pair.theirs else None
    assert ours
    cell = ours.config.patch_size * ours.config.spatial_merge_size
    num = max(1, side // cell) * ours.config.spatial_merge_size
    patches = normal(num * num, ours.config.patch_dim, s=s)
    grid = torch.tensor([[1, num, num]], device=s.device)
    body, merger = weights(ours.blocks), weights(ours.merger)
    return Case(
        "vision tower",
        f"{name_of(s.dtype)}, {depth_of(len(ours.blocks), s, 'thinker.visual.')}, {num * num} patches",
        lambda: ours(patches, [(1, num, num)]),
        (lambda: ref(patches, grid_thw=grid).pooler_output) if ref else None,
        s.dtype,
        moved=body.nbytes + merger.nbytes,
        operations=2 * num * num * (body.products + merger.products / ours.config.spatial_merge_size**2),
    )
