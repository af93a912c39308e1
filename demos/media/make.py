"""Draws, films and records the media that the demos use: `python -m demos.media.make`. Needs espeak-ng for the voice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
QUESTION = "What animal is in the picture?"
FPS, RATE = 10, 16000


def cat(path: Path) -> None:
    """An orange cat on a green meadow, 640 x 480."""
    image = Image.new("RGB", (640, 480), (150, 200, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 330, 640, 480), fill=(90, 160, 70))
    draw.ellipse((500, 40, 590, 130), fill=(250, 220, 80))
    fur, dark = (225, 140, 60), (120, 65, 25)
    draw.arc((400, 200, 560, 400), 300, 120, fill=fur, width=26)
    draw.ellipse((210, 230, 460, 430), fill=fur)
    for x in (250, 390):
        draw.ellipse((x, 390, x + 60, 440), fill=fur)
    draw.polygon([(215, 165), (225, 70), (285, 125)], fill=fur)
    draw.polygon([(385, 165), (375, 70), (315, 125)], fill=fur)
    draw.ellipse((205, 110, 395, 280), fill=fur)
    for x in (250, 325):
        draw.ellipse((x, 165, x + 28, 200), fill=(240, 250, 200))
        draw.ellipse((x + 10, 168, x + 18, 198), fill=(20, 20, 20))
    draw.polygon([(290, 215), (312, 215), (301, 230)], fill=(230, 120, 130))
    draw.arc((278, 222, 301, 248), 0, 180, fill=dark, width=3)
    draw.arc((301, 222, 324, 248), 0, 180, fill=dark, width=3)
    for y in (222, 234, 246):
        draw.line((215, y - 6, 272, 230), fill=dark, width=2)
        draw.line((387, y - 6, 330, 230), fill=dark, width=2)
    image.save(path, quality=88)


def ball(path: Path, seconds: float = 4.0) -> None:
    """A red ball crosses a grey room from left to right and strikes the wall with a beep at second 3, 320 x 240."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("h264", rate=FPS)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for i in range(round(seconds * FPS)):
            x = 30 + 250 * min(i / FPS / 3, 1)
            image = Image.new("RGB", (320, 240), (170, 175, 180))
            draw = ImageDraw.Draw(image)
            draw.rectangle((0, 190, 320, 240), fill=(110, 90, 70))
            draw.rectangle((306, 0, 320, 240), fill=(60, 60, 70))
            draw.ellipse((x - 26, 138, x + 26, 190), fill=(215, 40, 40))
            container.mux(video.encode(av.VideoFrame.from_image(image)))
        container.mux(video.encode())
        t = np.arange(round(seconds * RATE)) / RATE
        beep = 0.4 * np.sin(2 * np.pi * 880 * t) * (t >= 3) * np.exp(-8 * np.maximum(t - 3, 0))
        for at in range(0, len(t), 1024):
            frame = av.AudioFrame.from_ndarray(beep[None, at : at + 1024].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, at
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


def question(path: Path) -> None:
    """A synthetic voice that asks about the picture."""
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(path), QUESTION], check=True)


if __name__ == "__main__":
    cat(HERE / "cat.jpg")
    ball(HERE / "ball.mp4")
    question(HERE / "question.wav")
