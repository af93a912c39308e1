"""One picture: a file, bytes, data URL or Python object to RGB, upright, within a budget. Pillow decodes.

Whatever is wrong with the input leaves here as one `MediaError` (`MediaLimitError` where the budget is exceeded) whose
message names the input and says what to do.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from omni.encoders.sources import DEFAULT_BUDGET, Budget, Tell, opened, out_of_memory, tell_python
from omni.errors import MediaError, MediaLimitError

try:
    import pillow_heif
except ImportError:
    HEIF = False
else:
    HEIF = True
    pillow_heif.register_heif_opener()

ImageSource: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

# EPS and the like run programs, and others are no photographs: only these are tried
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", *(["HEIF"] if HEIF else []))
MAX_SIDE = (1 << 16) - 1
"""Pixels, as in JPEG: readers keep an entry for each row."""
_ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# what Pillow's readers raise for damaged data; warnings are exceptions where the caller's filters say so
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    RuntimeError, struct.error, zlib.error, UserWarning,
)  # fmt: skip


def read_image(source: ImageSource, budget: Budget = DEFAULT_BUDGET, *, tell: Tell = tell_python) -> Image.Image:
    """One picture, upright (EXIF orientation applied), RGB, transparency on white.

    source: a path, `file://` URL, data URL, the bytes of a file, a PIL image, or a uint8 array `[H, W, 3]`.
    Files are PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF, or HEIC where pillow-heif is installed (`omni-runtime[heic]`).
    Of an animation the first picture is taken, of a TIFF the first page; 16 bit greys keep their high byte, and colours are
    taken as numbers, whatever the profile, as the published processors do.
    tell: is given a sentence where there are more pictures.
    Raises MediaError, MediaLimitError.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise MediaError(f"the array is {source.dtype} {source.shape}; a picture is uint8 [H, W, 3]")
        check_size("the array", source.shape[1], source.shape[0], budget)
        return Image.fromarray(np.ascontiguousarray(source))
    if isinstance(source, Image.Image):
        return _to_rgb("the picture", source, budget)
    with opened(source, budget) as media:
        try:
            image = Image.open(media.file, formats=FORMATS)
            others = _others(image)
        except MemoryError as e:
            raise out_of_memory(media.name) from e
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
            raise MediaLimitError(f"{media.name} has too many pixels: {e}; shrink it first") from e
        except _PILLOW_ERRORS as e:
            media.file.seek(0)
            raise MediaError(f"{media.name} {_unreadable(media.file.read(12))}") from e
        rgb = _to_rgb(media.name, image, budget)
    if others:
        tell(f"{media.name} {others}")
    return rgb


def _others(image: Image.Image) -> str:
    """What a file holds besides the picture that is shown; what a phone puts beside a photograph does not count."""
    if not getattr(image, "is_animated", False):
        return ""
    if image.format in _ANIMATED:
        return "is an animation, and only its first picture is shown; make it a video to show all"
    return "has several pages, and only the first is shown" if image.format == "TIFF" else ""


def _unreadable(head: bytes) -> str:
    if head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS and not HEIF:
        return "is a HEIC picture, which needs one more package: pip install 'omni-runtime[heic]', or save it as JPEG"
    if head[4:8] == b"ftyp" and head[8:] in (*HEIF_BRANDS, b"avif", b"avis"):
        return "is damaged or cut short; save it again"
    return f"is no picture that can be read ({', '.join(FORMATS)}): its header is not one; save it as PNG or JPEG"


def check_size(name: str, width: int, height: int, budget: Budget) -> None:
    if width <= 0 or height <= 0:
        raise MediaError(f"{name} is {width} x {height} pixels: nothing to see; send a picture of at least one pixel")
    if max(width, height) > MAX_SIDE:
        raise MediaLimitError(f"{name} is {width} x {height} pixels and a side may be {MAX_SIDE}; shrink it first")
    if width * height > budget.max_pixels:
        raise MediaLimitError(f"{name} is {width} x {height} pixels and the budget is {budget.max_pixels}; shrink it first")


def _to_rgb(name: str, image: Image.Image, budget: Budget) -> Image.Image:
    check_size(name, image.width, image.height, budget)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = _high_byte(name, image)
        if image.mode == "F":
            raise MediaError(f"{name} holds floats of unknown range; convert it to 8 bits first")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.getchannel("A"))
            return white
        return image.convert("RGB")
    except MemoryError as e:
        raise out_of_memory(name) from e
    except _PILLOW_ERRORS as e:
        raise MediaError(f"{name} is damaged or cut short: {e}; save it again") from e


def _high_byte(name: str, image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8 as Pillow does for 16 bit colour; its own conversion of grey saturates instead."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise MediaError(f"{name} holds integers beyond 16 bits; convert it to 8 bits first")
    return Image.fromarray((values >> 8).astype(np.uint8))
