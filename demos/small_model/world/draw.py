"""Makes the small world visible: a scene as a picture, a clip as frames or as a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from demos.small_model.world.scenes import Clip, Scene, Thing

Pixels = npt.NDArray[np.uint8]
Wave = npt.NDArray[np.float32]
Rgb = tuple[int, int, int]
Loop = list[tuple[float, float]]

COLOUR: dict[str, Rgb] = {
    "red": (215, 25, 35),
    "green": (25, 145, 50),
    "blue": (30, 75, 230),
    "yellow": (250, 215, 20),
    "orange": (250, 125, 10),
    "purple": (130, 40, 180),
    "pink": (255, 125, 190),
    "brown": (120, 65, 25),
    "black": (12, 12, 12),
    "white": (252, 252, 252),
    "gray": (125, 125, 125),
}
GROUND: dict[str, Rgb] = {
    "white": (252, 252, 252),
    "black": (8, 8, 8),
    "gray": (155, 155, 155),
    "paper": (245, 232, 200),
    "night": (12, 16, 52),
    "mint": (180, 232, 200),
}
FINE = 3
"""A shape's mask is drawn this much larger, which smooths its edge."""
GLYPHS = 160


def _round(radius: float) -> Loop:
    return [(radius * math.cos(a), radius * math.sin(a)) for a in (math.tau * i / 72 for i in range(72))]


def _star(outer: float, inner: float) -> Loop:
    corners = ((inner if i % 2 else outer, math.pi * (i / 5 - 0.5)) for i in range(10))
    return [(r * math.cos(a), r * math.sin(a) + 0.03) for r, a in corners]


def _heart() -> Loop:
    cos, sin = math.cos, math.sin
    turn = (math.tau * i / 72 for i in range(72))
    edge = [(16 * sin(a) ** 3, 13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a)) for a in turn]
    return [(x / 33, -(y + 2.5) / 31) for x, y in edge]


OUTLINE: dict[str, Loop] = {
    "circle": _round(0.48),
    "square": [(-0.42, -0.42), (0.42, -0.42), (0.42, 0.42), (-0.42, 0.42)],
    "triangle": [(0, -0.46), (0.5, 0.42), (-0.5, 0.42)],
    "star": _star(0.53, 0.215),
    "heart": _heart(),
    "cross": [
        (s * x, s * y)
        for s in (1, -1)
        for x, y in ((-0.15, -0.48), (0.15, -0.48), (0.15, -0.15), (0.48, -0.15), (0.48, 0.15), (0.15, 0.15))
    ],
    "diamond": [(0, -0.53), (0.37, 0), (0, 0.53), (-0.37, 0)],
    "ring": _round(0.48),
}
"""The edge of a shape of diameter 1 around (0, 0), y downwards."""
HOLE = _round(0.25)


@dataclass(frozen=True)
class _Look:
    """What differs from one picture to the next without meaning anything: tones, angles, light, grain."""

    ground: Rgb
    ink: Rgb
    shapes: tuple[tuple[Rgb, float], ...]
    """Colour and angle in radians, for each thing."""
    light: tuple[float, float] | None = None
    """Contrast and brightness, 1 and 0 being neutral."""
    grain: int = 0


def _look(ground: str, ink: str, things: Iterable[Thing], rng: Random | None) -> _Look:
    names = [t.colour for t in things]
    written = COLOUR[ink or "black"]
    if rng is None:
        return _Look(GROUND[ground], written, tuple((COLOUR[name], 0.0) for name in names))

    def tone(rgb: Rgb) -> Rgb:
        r, g, b = (min(255, max(0, c + rng.randint(-9, 9))) for c in rgb)
        return r, g, b

    return _Look(
        tone(GROUND[ground]),
        tone(written),
        tuple((tone(COLOUR[name]), math.radians(rng.uniform(-8, 8))) for name in names),
        (rng.uniform(0.85, 1.1), rng.uniform(-12, 12)),
        rng.choice((0, 4, 8, 14)),
    )


def picture(scene: Scene, size: tuple[int, int] | None = None, rng: Random | None = None) -> Pixels:
    """uint8 [height, width, 3]; with `size` (width, height) as if resized to it, with `rng` a little different each time."""
    return _paint(scene, size, _look(scene.ground, scene.ink, scene.things, rng), scene.things, rng)


def _paint(
    scene: Scene, size: tuple[int, int] | None, look: _Look, things: Sequence[Thing | None], rng: Random | None
) -> Pixels:
    """The scene with these of its things, None being one that does not show."""
    width, height = size or (scene.width, scene.height)
    # a picture smaller than the size asked for has no finer detail than its own
    drawn = min(width, scene.width), min(height, scene.height)
    image = Image.new("RGB", drawn, look.ground)
    wide, high = drawn[0] / scene.width, drawn[1] / scene.height
    if scene.text:
        mask = lettering(scene.text)
        scale = min(0.8 * scene.width / mask.width, 0.6 * scene.height / mask.height)
        mask = mask.resize((max(1, round(mask.width * scale * wide)), max(1, round(mask.height * scale * high))))
        image.paste(look.ink, ((drawn[0] - mask.width) // 2, (drawn[1] - mask.height) // 2), mask)
    for thing, (rgb, angle) in zip(things, look.shapes, strict=True):
        if thing is not None:
            across = thing.size * min(scene.width, scene.height) / 3
            centre = thing.x * drawn[0] / 3, thing.y * drawn[1] / 3
            _shape(image, thing.shape, rgb, centre, (across * wide, across * high), angle)
    if drawn != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if look.light is not None:
        contrast, brightness = look.light
        image = image.point([min(255, max(0, round((v - 128) * contrast + 128 + brightness))) for v in range(256)] * 3)
    pixels = np.array(image)
    if rng is None or not look.grain:
        return pixels
    noise = np.frombuffer(rng.randbytes(pixels.size), np.int8).reshape(pixels.shape)
    return np.clip(pixels + (noise.astype(np.int16) * look.grain >> 7), 0, 255).astype(np.uint8)


def _shape(
    image: Image.Image, shape: str, rgb: Rgb, centre: tuple[float, float], across: tuple[float, float], angle: float
) -> None:
    """Draws a shape that is `across` (horizontally, vertically) pixels large."""
    x, y = centre
    # a turned shape may reach beyond its diameter
    left, top = math.floor(x - 0.6 * across[0]), math.floor(y - 0.6 * across[1])
    right, bottom = math.ceil(x + 0.6 * across[0]), math.ceil(y + 0.6 * across[1])
    mask = Image.new("L", ((right - left) * FINE, (bottom - top) * FINE))
    pen = ImageDraw.Draw(mask)
    cos, sin = math.cos(angle), math.sin(angle)

    def placed(loop: Loop) -> Loop:
        # PIL counts from the middle of a pixel
        return [
            (
                (x - left + (u * cos - v * sin) * across[0]) * FINE - 0.5,
                (y - top + (u * sin + v * cos) * across[1]) * FINE - 0.5,
            )
            for u, v in loop
        ]

    pen.polygon(placed(OUTLINE[shape]), fill=255)
    if shape == "ring":
        pen.polygon(placed(HOLE), fill=0)
    image.paste(rgb, (left, top), mask.reduce(FINE))


@lru_cache(maxsize=256)
def lettering(text: str) -> Image.Image:
    """A text in bold, cut to its edges, as a mask."""
    font, stroke = ImageFont.load_default(GLYPHS), GLYPHS // 64
    left, top, right, bottom = (round(v) for v in font.getbbox(text, stroke_width=stroke))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=stroke)
    return mask


def frames(clip: Clip, fps: float = 2.0, size: tuple[int, int] | None = None, rng: Random | None = None) -> Pixels:
    """uint8 [N, height, width, 3]: the clip at 0, 1 / fps, ... seconds; only the grain differs from frame to frame."""
    things = tuple(actor.thing for actor in clip.actors)
    look = _look(clip.ground, "", things, rng)
    scene = Scene(clip.width, clip.height, clip.ground, things)
    times = [i / fps for i in range(math.ceil(clip.seconds * fps))]
    return np.stack([_paint(scene, size, look, placed_at(clip, t), rng) for t in times])


def placed_at(clip: Clip, t: float) -> list[Thing | None]:
    """Where each thing is at second `t`."""
    things: list[Thing | None] = []
    for actor in clip.actors:
        thing = actor.thing
        way = actor.speed * max(0.0, t - actor.begin)
        if actor.direction in ("left", "right"):
            thing = replace(thing, x=_moved(thing.x, way if actor.direction == "right" else -way))
        elif actor.direction:
            thing = replace(thing, y=_moved(thing.y, way if actor.direction == "down" else -way))
        things.append(thing if actor.shown <= t < actor.hidden else None)
    return things


def _moved(start: float, way: float) -> float:
    return min(2.7, max(0.3, start + way))


def write_clip(
    clip: Clip, path: Path, fps: int = 8, sound: Wave | None = None, rate: int = 16000, bit_rate: int = 64000
) -> None:
    """An .mp4 of the clip, with the mono `sound` [samples] as its sound track of `bit_rate`."""
    # yuv420p wants even sides
    size = clip.width // 2 * 2, clip.height // 2 * 2
    with av.open(str(path), "w") as container:
        video = container.add_stream("h264", rate=fps)
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        audio = None if sound is None else container.add_stream("aac", rate=rate, layout="mono", bit_rate=bit_rate)
        for pixels in frames(clip, fps, size):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            for at in range(0, len(sound), 1024):
                frame = av.AudioFrame.from_ndarray(sound[None, at : at + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate, at
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
