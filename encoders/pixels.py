"""Pictures and frames to patches, as published: qwen_omni_utils resizes, then the Qwen2-VL processors of transformers."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from omni.encoders.config import FPS, FRAME_MAX_PIXELS, FRAME_MIN_PIXELS, PixelConfig
from omni.encoders.features import Picture
from omni.errors import MediaError, OptionError

MAX_ASPECT = 200
# of a whole video: 90 % of a context of 128 000 cells
VIDEO_TOTAL_PIXELS = 115_200 * 28 * 28


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: float) -> tuple[int, int]:
    """The size nearest to (height, width) of which both sides are multiples of `factor` and the area is within bounds.

    Both sides are at least `factor`, even where the area then exceeds max_pixels. Raises MediaError for an empty picture
    or one over 200 times as long as wide, OptionError for bounds that exclude each other.
    """
    if not 0 < min_pixels <= max_pixels:
        raise OptionError(f"min_pixels {min_pixels} and max_pixels {max_pixels}: the first must be 1 up to the second")
    if min(height, width) < 1:
        raise MediaError(f"a picture of {width} x {height} pixels is empty")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"a picture of {width} x {height} is over {MAX_ASPECT} times as long as wide; crop it")
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    if rows * columns * factor**2 > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows, columns = (max(1, math.floor(side / scale / factor)) for side in (height, width))
    elif rows * columns * factor**2 < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * scale / factor) for side in (height, width))
    return rows * factor, columns * factor


def image_patches(
    image: Image.Image, config: PixelConfig, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> Picture:
    """A still RGB picture as patches, each with the picture repeated along time.

    min_pixels, max_pixels: of the resized area, instead of the checkpoint's. Raises MediaError, OptionError.
    """
    assert image.mode == "RGB"
    low = config.min_pixels if min_pixels is None else min_pixels
    high = config.max_pixels if max_pixels is None else max_pixels
    height, width = smart_resize(image.height, image.width, config.factor, low, high)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    frame = _normalise(torch.from_numpy(pixels).permute(2, 0, 1).float(), config)  # [3, H, W]
    frames = frame.expand(config.temporal_patch_size, -1, -1, -1)
    return Picture(_cut(frames, config), (1, height // config.patch_size, width // config.patch_size))


def video_patches(
    frames: Tensor,
    config: PixelConfig,
    *,
    fps: float = FPS,
    min_pixels: int = FRAME_MIN_PIXELS,
    max_pixels: int | None = None,
    total_pixels: int = VIDEO_TOTAL_PIXELS,
) -> Picture:
    """The frames of a video as patches; an odd number of frames is filled up with the last.

    frames: uint8 RGB `[n, 3, H, W]`, of a file or a list alike (qwen_omni_utils treats those of a list as still images
        first).
    fps: what `second_per_grid` = temporal_patch_size / fps says. The published processor says 2.0 whatever the frames'
        true rate, and the model's clock follows it; pass another to state the truth.
    min_pixels, max_pixels, total_pixels: bounds of a frame's area and of all frames' together, as in qwen_omni_utils.
        The processor then resizes again to the checkpoint's bounds, 100 352 up to 602 112 pixels a frame in the published
        ones, so a smaller max_pixels costs detail but saves no patches.
    Raises MediaError, OptionError.
    """
    assert frames.dtype == torch.uint8
    assert frames.ndim == 4
    assert frames.shape[1] == 3
    if not fps > 0:
        raise OptionError(f"fps {fps} must be above 0")
    n, step, side = len(frames), config.temporal_patch_size, config.patch_size
    if n == 0:
        raise MediaError("a video of no frames has nothing to see")
    bound = max(min(FRAME_MAX_PIXELS, total_pixels / n * 2), int(min_pixels * 1.05))
    bound = bound if max_pixels is None else min(bound, max_pixels)
    first = smart_resize(frames.shape[2], frames.shape[3], config.factor, min_pixels, bound)
    size = smart_resize(*first, config.factor, config.frame_min_pixels, config.frame_max_pixels)
    t, h, w = math.ceil(n / step), size[0] // side, size[1] // side
    patches = torch.empty(t, h * w, 3 * step * side**2)
    for i in range(t):  # a grid at a time: a whole clip in float32 would be four times the clip
        part = frames[i * step : (i + 1) * step].float()
        part = _resize(part, first).clamp(0, 255).round()
        part = _normalise(_resize(part, size), config)
        patches[i] = _cut(torch.cat([part, part[-1:].expand(step - len(part), -1, -1, -1)]), config)
    return Picture(patches.flatten(0, 1), (t, h, w), step / fps)


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """torchvision's antialiased bicubic on floats `[n, 3, H, W]`; it rounds nothing and does not clamp."""
    if frames.shape[2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bicubic", align_corners=False, antialias=True)


def _normalise(pixels: Tensor, config: PixelConfig) -> Tensor:
    """0..255 `[..., 3, H, W]` to zero mean and unit deviation, scale and shift in one float32 step."""
    mean, std = (torch.tensor(x)[:, None, None] * 255.0 for x in (config.mean, config.std))
    return (pixels - mean) / std


def _cut(frames: Tensor, config: PixelConfig) -> Tensor:
    """One temporal grid `[temporal, 3, H, W]` to patches `[h * w, 3 * temporal * side * side]`.

    Patches of a merge cell stand together: cell row, cell column, row and column in the cell.
    """
    step, channels, height, width = frames.shape
    side, m = config.patch_size, config.merge_size
    cells = frames.reshape(step, channels, height // side // m, m, side, width // side // m, m, side)
    return cells.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(-1, channels * step * side**2)
