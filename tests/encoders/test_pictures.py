"""Pictures that are made here, read back; and everything the world gets wrong with them, as one typed error."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni.encoders import pictures
from omni.encoders.pictures import read_image
from omni.encoders.sources import Budget
from omni.errors import MediaError, MediaLimitError, MediaWarning
from tests.encoders.samples import (
    PNG,
    damaged,
    data_url,
    picture_file,
    quadrants,
)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG", "AVIF"])
def test_read_image_from_everywhere(kind: str, tmp_path: Path) -> None:
    pixels = quadrants()
    data = picture_file(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "a picture.bin"
    path.write_bytes(data)
    for source in (path, str(path), path.as_uri(), data, data_url(data), Image.open(io.BytesIO(data))):
        image = read_image(source)
        assert image.mode == "RGB"
        difference = np.abs(np.asarray(image).astype(int) - pixels)
        assert difference.max() == 0 if kind not in ("JPEG", "AVIF") else difference.mean() < 10


def test_read_image_from_an_array() -> None:
    pixels = quadrants()
    assert np.array_equal(np.asarray(read_image(pixels)), pixels)
    assert np.array_equal(np.asarray(read_image(pixels[::-1, ::2])), pixels[::-1, ::2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_is_upright(orientation: int) -> None:
    upright = quadrants()
    # what a camera stores, by the EXIF standard's table of where row 0 and column 0 are
    turned = upright.transpose(1, 0, 2) if orientation > 4 else upright
    rows = -1 if orientation in (3, 4, 7, 6) else 1
    columns = -1 if orientation in (2, 3, 7, 8) else 1
    stored = np.ascontiguousarray(turned[::rows, ::columns])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(read_image(picture_file(Image.fromarray(stored), exif=exif))), upright)


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("RGBA", (3, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (3, 2), (200, 0, 100, 51)), (244, 204, 224)),  # a fifth of the colour
        (Image.new("LA", (3, 2), (0, 51)), (204, 204, 204)),
        (Image.new("L", (3, 2), 77), (77, 77, 77)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (3, 2), (9, 8, 7)).quantize(4), (9, 8, 7)),
        (Image.new("I;16", (3, 2), 0x12FF), (0x12, 0x12, 0x12)),
        (Image.new("I", (3, 2), 0xFF00), (255, 255, 255)),
    ],
    ids=lambda x: x.mode if isinstance(x, Image.Image) else None,
)
def test_read_image_of_every_mode(image: Image.Image, want: tuple[int, int, int]) -> None:
    for source in (image, picture_file(image, "TIFF" if image.mode == "I" else "PNG")):
        assert np.abs(np.asarray(read_image(source)).astype(int) - want).max() <= 1


def test_read_image_of_a_transparent_palette() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert read_image(picture_file(image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(picture_file(image, transparency=bytes([0, 255]))).getpixel((0, 0)) == (0, 255, 0)


HEIC = Path(__file__).parents[1] / "data" / "quadrants.heic"
"""460 x 340 pixels, by pillow-heif, which not everybody has."""


def test_read_image_of_heic() -> None:
    if pictures.HEIF:
        image = read_image(HEIC)
        assert image.size == (460, 340)
        assert np.abs(np.asarray(image).astype(int) - quadrants(340, 460)).mean() < 5
    else:
        with pytest.raises(MediaError, match=r"quadrants\.heic is a HEIC picture"):
            read_image(HEIC)


def test_read_image_of_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "HEIF", False)
    monkeypatch.setattr(pictures, "FORMATS", tuple(kind for kind in pictures.FORMATS if kind != "HEIF"))
    with pytest.raises(MediaError, match=r"pip install 'omni-runtime\[heic\]'"):
        read_image(HEIC.read_bytes())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_read_image_of_an_animation(kind: str) -> None:
    """Its first picture, and a word about the others."""
    first, second = (Image.new("RGB", (32, 16), colour) for colour in ((250, 10, 20), (20, 240, 30)))
    data = picture_file(first, kind, save_all=True, append_images=[second])
    said = list[str]()
    image = read_image(data, tell=said.append)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(first)).max() < 12
    assert len(said) == 1
    assert "several pages" in said[0] if kind == "TIFF" else "is an animation" in said[0]
    with pytest.warns(MediaWarning, match="only"):
        read_image(data)


def test_read_image_of_a_phone_holds_previews_besides() -> None:
    data = picture_file(Image.fromarray(quadrants()), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert read_image(data).size == (46, 34)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"just text, no picture", "no picture that can be read"),
        (b"", r"empty \(0 bytes\)"),
        (PNG[: len(PNG) // 2], "cut short"),
        (PNG[:20], "no picture|cut short"),
        (damaged(PNG), "damaged"),
        (picture_file(Image.fromarray(quadrants(400, 400)), "JPEG")[:900], "cut short"),
        (picture_file(Image.fromarray(quadrants(400, 400)), "AVIF")[:300], "cut short"),
        (damaged(picture_file(Image.fromarray(quadrants(400, 400)), "AVIF")), "damaged"),
        (picture_file(Image.fromarray(quadrants(400, 400)), "GIF")[:300], "cut short"),
        ("/no/such/picture.png", "'/no/such/picture.png' cannot be opened: No such file"),
        ("nul\0.png", "cannot be opened"),
        ("https://example.com/cat.png", "https://example.com/cat.png is not fetched; download it first"),
        ("data:image/png;base64,@@@", "damaged base64"),
        ("data:image/png,abc", "data:TYPE;base64,DATA"),
        ("data:", "data:TYPE;base64,DATA"),
        ("data:image/png;base64,", "empty"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "nothing to see"),
        (Image.new("F", (4, 4)), "floats of unknown range"),
        (Image.new("I", (4, 4), 70_000), "beyond 16 bits"),
        (12, "an? int is no media"),
        (None, "NoneType"),
    ],
)
def test_read_image_says_what_is_wrong(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_image(source)


def test_read_image_within_the_budget() -> None:
    image = Image.new("RGB", (100, 80))
    data = picture_file(image)
    assert read_image(data, Budget(max_pixels=8000, max_bytes=len(data))).size == (100, 80)
    for source in (data, image, np.asarray(image), data_url(data)):
        with pytest.raises(MediaLimitError, match="100 x 80 pixels and the budget is 7999"):
            read_image(source, Budget(max_pixels=7999))
    for source in (data, data_url(data)):
        with pytest.raises(MediaLimitError, match=f"{len(data)} bytes and the budget is {len(data) - 1}"):
            read_image(source, Budget(max_bytes=len(data) - 1))


@pytest.mark.parametrize("side", [9_500, 14_000, 60_000])
def test_read_image_of_a_bomb(side: int) -> None:
    """A few bytes that claim to be a huge picture: Pillow warns of the first, refuses the others; nothing is decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + bytes(4)
    data = data[:-4] + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 4) + b"IDAT" + bytes(8)
    with pytest.raises(MediaLimitError, match="pixels"):
        read_image(data)
