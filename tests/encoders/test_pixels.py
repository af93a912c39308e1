"""Sizes, patches and their order, against transformers where it runs without torchvision and by hand elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from omni.encoders.config import PixelConfig
from omni.encoders.features import Picture
from omni.encoders.pixels import FrameSize, image_patches, smart_resize, video_patches
from omni.errors import MediaError, MediaLimitError, OptionError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONFIG = PixelConfig(14, 2, 2, 3136, 12845056, MEAN, STD)
BOUNDS = (28, 3136, 12845056)


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bicubic(old: int, new: int) -> npt.NDArray[np.float64]:
    """Weights `[new, old]` of antialiased bicubic (a = -0.5): a kernel as wide as the shrinking asks, cut at the edge."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    x = np.abs(np.arange(old) - centre) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def smooth_frames(n: int, height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(x / (5 + i) + c) + torch.cos(y / 7 + i) for i in range(n) for c in range(3)]
    return ((torch.stack(waves) + 2) * 63).to(torch.uint8).view(n, 3, height, width)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((28, 28), (56, 56)),  # below the least area: sqrt(3136 / 784) = 2
        ((480, 640), (476, 644)),
        ((42, 420), (56, 420)),  # 1.5 rounds to the even 2
        ((70, 420), (56, 420)),  # 2.5 too
        ((10, 1000), (28, 1008)),  # a side never rounds to 0
        ((6000, 8000), (3080, 4116)),  # beta = sqrt(48e6 / 12845056) = 1.93311
        ((1, 200), (28, 196)),
        ((5, 1000), (28, 1008)),
    ],
)
def test_smart_resize_by_hand(size: tuple[int, int], want: tuple[int, int]) -> None:
    assert smart_resize(*size, *BOUNDS) == want
    assert smart_resize(*want, *BOUNDS) == want


@pytest.mark.oracle
def test_smart_resize_is_transformers() -> None:
    """Wherever no side rounds to 0, which qwen_omni_utils prevents and transformers does not."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    rng = np.random.default_rng(0)
    for height, width in np.exp(rng.uniform(math.log(15), math.log(9000), (3000, 2))).astype(int).tolist():
        if max(height, width) <= 200 * min(height, width):
            for low, high in ((3136, 12845056), (100352, 602112), (100352, 105369.6), (784, 50_000)):
                assert smart_resize(height, width, 28, low, high) == theirs(height, width, 28, low, high)


@pytest.mark.parametrize("size", [(1, 201), (2001, 10), (0, 5), (5, 0)])
def test_smart_resize_refuses_shapes(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=f"{size[1]} x {size[0]}"):
        smart_resize(*size, *BOUNDS)


@pytest.mark.parametrize(("low", "high"), [(0, 100), (101, 100)])
def test_smart_resize_refuses_bounds(low: int, high: int) -> None:
    with pytest.raises(OptionError, match="min_pixels"):
        smart_resize(50, 50, 28, low, high)


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(57, 91), (300, 211), (28, 400), (9, 9), (640, 480)])
@pytest.mark.parametrize("bounds", [None, (10_000, 40_000)])
def test_image_patches_are_transformers(size: tuple[int, int], bounds: tuple[int, int] | None) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    low, high = bounds or (CONFIG.min_pixels, CONFIG.max_pixels)
    image = Image.fromarray(noise(*size, 3))
    want = Qwen2VLImageProcessorPil(min_pixels=low, max_pixels=high)(image, return_tensors="pt")
    got = image_patches(image, CONFIG, min_pixels=bounds and low, max_pixels=bounds and high)
    assert got.grid == tuple(want["image_grid_thw"][0].tolist())
    assert got.second_per_grid is None
    # numpy scales and shifts in two float32 steps and we in one: a few roundings of values up to 2.7
    torch.testing.assert_close(got.patches, want["pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("resized", "want"), [((280, 420), (280, 420)), ((100, 205), (112, 196)), ((9, 9), (56, 56))])
def test_image_is_resized_as_asked(resized: tuple[int, int], want: tuple[int, int]) -> None:
    """As qwen_omni_utils: first to these, then within the checkpoint's bounds."""
    image = Image.fromarray(noise(300, 211, 3))
    got = image_patches(image, CONFIG, resized=resized)
    assert (got.grid[1] * 14, got.grid[2] * 14) == want
    assert torch.equal(got.patches, image_patches(image.resize(want[::-1], Image.Resampling.BICUBIC), CONFIG).patches)
    assert image_patches(image, CONFIG, resized=resized, max_pixels=56 * 56).grid[1] <= 4


def test_image_patches_by_hand() -> None:
    """One number per pixel finds every patch, and every pixel in it."""
    config = replace(CONFIG, min_pixels=1, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    y, x = np.mgrid[:56, :84]
    values = np.stack([y, x, y + x], 2).astype(np.uint8)
    picture = image_patches(Image.fromarray(values), config)
    assert picture.grid == (1, 4, 6)
    patches = picture.patches.view(24, 3, 2, 14, 14)
    assert torch.equal(patches[:, :, 0], patches[:, :, 1])
    corners = patches[:, :2, 0, 0, 0] / 14
    cells = [(2 * r + i, 2 * c + j) for r in range(2) for c in range(3) for i in range(2) for j in range(2)]
    torch.testing.assert_close(corners, torch.tensor(cells, dtype=torch.float32))
    inside = patches[0, :, 0]
    torch.testing.assert_close(inside[2], inside[0] + inside[1])
    torch.testing.assert_close(inside[1, 3], torch.arange(14.0))


def test_image_normalisation_is_fused() -> None:
    picture = image_patches(Image.new("RGB", (56, 56), (0, 128, 255)), CONFIG)
    want = [(x - 255 * m) / (255 * s) for x, m, s in zip((0, 128, 255), MEAN, STD, strict=True)]
    channels = picture.patches.view(16, 3, -1)
    torch.testing.assert_close(channels, torch.tensor(want)[None, :, None].expand_as(channels))


def patches(frames: Tensor, config: PixelConfig = CONFIG, **how: Any) -> Picture:
    """Of frames `[n, 3, H, W]`."""
    return video_patches([frame.permute(1, 2, 0).numpy() for frame in frames], len(frames), config, **how)


def test_video_patches_by_hand() -> None:
    """A size that needs no resize: three frames, the last shown twice."""
    config = replace(CONFIG, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    frames = torch.zeros(3, 3, 280, 392, dtype=torch.uint8)
    frames[:] = torch.arange(3)[:, None, None, None] * 50 + torch.arange(3)[:, None, None]
    frames[:, :, 14:28, 28:42] += 100  # patch row 1, column 2: third of the second cell
    picture = patches(frames, config)
    assert picture.grid == (2, 20, 28)
    assert picture.second_per_grid == 1.0
    cut = picture.patches.view(2, 20 * 28, 3, 2, 196)
    assert cut[..., 0].allclose(cut.mean(-1), atol=1e-4)
    marked = torch.zeros(560)
    marked[4 + 2] = 100
    for grid, step, frame in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)):
        for channel in range(3):
            want = marked + frame * 50 + channel
            torch.testing.assert_close(cut[grid, :, channel, step, 0], want, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("size", "n", "options", "want"),
    [
        ((60, 90), 4, {}, (280, 392)),  # seen in transformers 5.17
        ((720, 1280), 4, {}, (560, 1008)),
        ((720, 1280), 768, {}, (336, 644)),  # 90 316 800 / 768 * 2 = 235 200
        ((720, 1280), 4, {"max_pixels": 20_000, "min_pixels": 3136}, (224, 448)),  # shrunk to 84 x 168, then grown again
        ((720, 1280), 4, {"max_pixels": 200_000}, (308, 588)),
        ((720, 1280), 4, {"total_pixels": 400_000}, (308, 588)),
        ((720, 1280), 4, {"resized": (300, 500)}, (308, 504)),
        ((720, 1280), 4, {"resized": (56, 100)}, (224, 448)),  # 56 x 112, then grown
        ((9, 1800), 2, {}, (28, 4480)),
    ],
)
def test_video_sizes(size: tuple[int, int], n: int, options: dict[str, Any], want: tuple[int, int]) -> None:
    config = replace(CONFIG, min_pixels=1, max_pixels=28 * 28)  # a checkpoint's bounds are for still images
    first = FrameSize(**options).of(*size, n, config.factor)
    assert smart_resize(*first, config.factor, config.frame_min_pixels, config.frame_max_pixels) == want
    if n == 4:
        picture = patches(torch.zeros(n, 3, *size, dtype=torch.uint8), config, size=FrameSize(**options))
        assert picture.grid == (n // 2, want[0] // 14, want[1] // 14)


@pytest.mark.parametrize(
    ("size", "bounds"),
    [((57, 91), {}), ((300, 517), {}), ((720, 1280), {}), ((480, 640), {"max_pixels": 20_000, "min_pixels": 3136})],
)
@pytest.mark.parametrize("n", [2, 5])
def test_frames_one_at_a_time_are_all_at_once(size: tuple[int, int], n: int, bounds: dict[str, int]) -> None:
    """To the bit, as they were while whole clips were held."""
    frames = torch.from_numpy(noise(n, 3, *size))
    picture = patches(frames, size=FrameSize(**bounds))
    t, h, w = picture.grid
    first = FrameSize(**bounds).of(*size, n, 28)

    def resize(x: Tensor, to: tuple[int, int]) -> Tensor:
        same = x.shape[2:] == to
        return x if same else torch.nn.functional.interpolate(x, to, mode="bicubic", align_corners=False, antialias=True)

    all_at_once = resize(resize(frames.float(), first).clamp(0, 255).round(), (h * 14, w * 14))
    mean, std = (torch.tensor(x)[:, None, None] * 255.0 for x in (MEAN, STD))
    all_at_once = (all_at_once - mean) / std
    got = picture.patches.view(t, h // 2, w // 2, 2, 2, 3, 2, 14, 14).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    got = got.reshape(2 * t, 3, h * 14, w * 14)
    assert torch.equal(got[:n], all_at_once)
    assert torch.equal(got[n:], all_at_once[n - 1 : n].expand(n % 2, -1, -1, -1))


def test_a_frame_that_comes_again_is_not_cut_again() -> None:
    a, b = noise(2, 300, 400, 3)
    again = video_patches(iter([a, a, b, b]), 4, CONFIG, times=(0.0, 0.5, 4.0, 4.5))
    assert torch.equal(again.patches, video_patches([a, a.copy(), b, b.copy()], 4, CONFIG).patches)
    assert again.times == (0.0, 4.0)


def test_frames_of_another_size_are_brought_to_the_first() -> None:
    small = np.full((240, 320, 3), 90, np.uint8)
    picture = video_patches([np.full((480, 640, 3), 90, np.uint8), small], 2, CONFIG)
    flat = picture.patches.view(-1, 3, 2, 196)
    torch.testing.assert_close(flat[:, :, 0], flat[:, :, 1], atol=1e-3, rtol=0)


def test_the_budget_counts_what_is_shown() -> None:
    frames = torch.zeros(4, 3, 720, 1280, dtype=torch.uint8)
    patches(frames, max_bytes=4 * 3 * 560 * 1008)
    with pytest.raises(MediaLimitError, match="4 frames of 1008 x 560 are 6773760 bytes"):
        patches(frames, max_bytes=4 * 3 * 560 * 1008 - 1)


@pytest.mark.parametrize("size", [(60, 90), (301, 517), (720, 1280)])
def test_video_resize_is_torchvisions(size: tuple[int, int]) -> None:
    """Resized as floats and rounded, as torchvision's `transforms.functional.resize`; the uint8 kernel is a level off."""
    config = replace(CONFIG, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    frames = smooth_frames(2, *size)
    picture = patches(frames, config)
    _, h, w = picture.grid
    got = (
        picture.patches.view(h // 2, w // 2, 2, 2, 3, 2, 14, 14)
        .permute(5, 4, 0, 2, 6, 1, 3, 7)
        .reshape(2, 3, h * 14, w * 14)
    )
    assert (got - got.round()).abs().max() < 1e-4
    exact = (bicubic(size[0], h * 14) @ frames.numpy() @ bicubic(size[1], w * 14).T).clip(0, 255)
    assert (got - torch.from_numpy(exact)).abs().max() < 0.505  # rounded once, at the end; float32 places pixels to 1e-4
    by_uint8 = torch.nn.functional.interpolate(frames, (h * 14, w * 14), mode="bicubic", antialias=True)
    off = (got - by_uint8).abs() > 0.5
    assert 0.1 < off.float().mean() < 0.3


def test_video_clock_ignores_the_true_rate() -> None:
    frames = torch.zeros(2, 3, 280, 392, dtype=torch.uint8)
    assert patches(frames, CONFIG).second_per_grid == 1.0
    assert patches(frames, CONFIG, fps=1).second_per_grid == 2.0
    assert patches(frames, CONFIG, fps=3).second_per_grid == 2 / 3


def test_video_refuses() -> None:
    frames = torch.zeros(2, 3, 280, 392, dtype=torch.uint8)
    with pytest.raises(MediaError, match="no frames"):
        patches(frames[:0], CONFIG)
    for fps in (0, -1, math.nan):
        with pytest.raises(OptionError, match="fps"):
            patches(frames, CONFIG, fps=fps)
    with pytest.raises(MediaError, match="200 times"):
        patches(torch.zeros(2, 3, 10, 2010, dtype=torch.uint8), CONFIG)
