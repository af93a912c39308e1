"""Pictures and frames to patches, as published: qwen_omni_utils resizes, then the Qwen2-VL processors of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from omni.encoders.config import FPS, FRAME_MAX_PIXELS, FRAME_MIN_PIXELS, PixelConfig
from omni.encoders.features import Picture
from omni.errors import MediaError, MediaLimitError, OptionError

MAX_ASPECT = 200
# of a whole video: 90 % of a context of 128 000 cells
VIDEO_TOTAL_PIXELS = 115_200 * 28 * 28
# of a size that is asked for
RESIZED_MIN_PIXELS, RESIZED_MAX_PIXELS = 4 * 28 * 28, 16384 * 28 * 28


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
    image: Image.Image,
    config: PixelConfig,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    resized: tuple[int, int] | None = None,
) -> Picture:
    """A still RGB picture as patches, each with the picture repeated along time.

    min_pixels, max_pixels: of the resized area, instead of the checkpoint's.
    resized: (height, width) to bring it to before, as in qwen_omni_utils, which rounds them to multiples of `factor`.
    Raises MediaError, OptionError.
    """
    assert image.mode == "RGB"
    low = config.min_pixels if min_pixels is None else min_pixels
    high = config.max_pixels if max_pixels is None else max_pixels
    if resized is not None:
        height, width = smart_resize(*resized, config.factor, RESIZED_MIN_PIXELS, RESIZED_MAX_PIXELS)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    height, width = smart_resize(image.height, image.width, config.factor, low, high)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    frame = _normalise(torch.from_numpy(pixels).permute(2, 0, 1).float(), config)  # [3, H, W]
    frames = frame.expand(config.temporal_patch_size, -1, -1, -1)
    return Picture(_cut(frames, config), (1, height // config.patch_size, width // config.patch_size))


@dataclass(frozen=True)
class FrameSize:
    """How large the frames of a video are shown, as in qwen_omni_utils; None for what it says itself.

    Attributes:
        min_pixels, max_pixels, total_pixels: bounds of a frame's area and of all frames' together. The processor then
            resizes again to the checkpoint's bounds, 100 352 up to 602 112 pixels a frame in the published ones, so a
            smaller max_pixels costs detail but saves no patches.
        resized: (height, width) of a frame instead, rounded to multiples of `factor`.
    """

    min_pixels: int = FRAME_MIN_PIXELS
    max_pixels: int | None = None
    total_pixels: int = VIDEO_TOTAL_PIXELS
    resized: tuple[int, int] | None = None

    def of(self, height: int, width: int, count: int, factor: int) -> tuple[int, int]:
        """(height, width) that one of `count` frames is brought to. Raises MediaError, OptionError."""
        if self.resized is not None:
            return smart_resize(*self.resized, factor, RESIZED_MIN_PIXELS, RESIZED_MAX_PIXELS)
        bound = max(min(FRAME_MAX_PIXELS, self.total_pixels / count * 2), int(self.min_pixels * 1.05))
        bound = bound if self.max_pixels is None else min(bound, self.max_pixels)
        return smart_resize(height, width, factor, self.min_pixels, bound)


PLAIN_SIZE = FrameSize()
"""That of frames of which nothing is asked."""


def video_patches(
    frames: Iterable[npt.NDArray[np.uint8]],
    count: int,
    config: PixelConfig,
    *,
    fps: float = FPS,
    times: Sequence[float] | None = None,
    size: FrameSize = PLAIN_SIZE,
    max_bytes: int | None = None,
) -> Picture:
    """The frames of a video as patches; an odd number of frames is filled up with the last.

    frames: uint8 RGB `[H, W, 3]`, so many as `count` says, of a file or a list alike (qwen_omni_utils treats those of a list
        as still images first). Each is resized as it comes, and none is kept.
    fps: what `second_per_grid` = temporal_patch_size / fps says. The published processor says 2.0 whatever the frames'
        true rate, and the model's clock follows it; pass another to state the truth.
    times: seconds of each frame after the first's place on the clock, where they do not come at `fps`.
    max_bytes: of all frames together, at the size that they are brought to.
    Raises MediaError, MediaLimitError, OptionError.
    """
    if not fps > 0:
        raise OptionError(f"fps {fps} must be above 0")
    if count == 0:
        raise MediaError("a video of no frames has nothing to see")
    step, side = config.temporal_patch_size, config.patch_size
    first = final = (0, 0)
    patches, grid = torch.empty(0), list[Tensor]()
    before, resized = None, torch.empty(0)
    num = 0
    for pixels in frames:
        if num == 0:
            first = size.of(pixels.shape[0], pixels.shape[1], count, config.factor)
            final = smart_resize(*first, config.factor, config.frame_min_pixels, config.frame_max_pixels)
            if max_bytes is not None and (kept := count * 3 * first[0] * first[1]) > max_bytes:
                raise MediaLimitError(
                    f"{count} frames of {first[1]} x {first[0]} are {kept} bytes and the budget is {max_bytes}; "
                    "show fewer frames or shrink them"
                )
            h, w = final[0] // side, final[1] // side
            patches = torch.empty(math.ceil(count / step), h * w, 3 * step * side**2)
        if pixels is not before:
            before, resized = pixels, _shown(pixels, first, final, config)
        grid.append(resized)
        num += 1
        if num == count:
            grid += [resized] * (step - len(grid))
        if len(grid) == step:
            patches[(num - 1) // step] = _cut(torch.stack(grid), config)
            grid = []
    assert num == count
    t = len(patches)
    starts = None if times is None else tuple(times[::step])
    return Picture(patches.flatten(0, 1), (t, final[0] // side, final[1] // side), step / fps, starts)


def _shown(pixels: npt.NDArray[np.uint8], first: tuple[int, int], final: tuple[int, int], config: PixelConfig) -> Tensor:
    """A frame `[H, W, 3]` resized twice and normalised `[3, h, w]`."""
    planes = torch.from_numpy(pixels).unbind(2)  # one after another: three of a large frame as floats are 100 MB
    frame = torch.cat([_resize(plane.contiguous()[None, None].float(), first) for plane in planes], 1)
    frame = frame.clamp(0, 255).round()
    return _normalise(_resize(frame, final), config)[0]


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
