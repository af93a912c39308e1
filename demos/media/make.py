"""Draws, films and records the media that the demos use: `python -m demos.media.make`. Needs flite and espeak-ng."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import av
import numpy as np
import soundfile
import soxr
from PIL import Image, ImageDraw

from demos.small_model.speech.synthesisers import say
from demos.small_model.world.draw import picture, write_clip
from demos.small_model.world.questions import Turn
from demos.small_model.world.scenes import Actor, Clip, Scene, Thing
from demos.small_model.world.sounds import beep_track

HERE = Path(__file__).parent

SCENE = Scene(
    640,
    480,
    "paper",
    (
        Thing("red", "circle", 0, 0.55, 0.6, 0.75),
        Thing("green", "heart", 2, 2.45, 0.55, 0.7),
        Thing("red", "circle", 4, 1.6, 1.4, 0.6),
        Thing("blue", "star", 7, 1.4, 2.45, 0.85),
    ),
)
CLIP = Clip(
    320,
    240,
    "mint",
    5,
    (
        Actor(Thing("orange", "star", 3, 0.5, 1.5, 0.75), direction="right", begin=1, speed=0.45),
        Actor(Thing("purple", "square", 8, 2.45, 2.5, 0.6)),
    ),
    beep=3,
)
SPOKEN = {
    "how_many": Turn("How many red circles are there?", "There are two red circles."),
    "where": Turn("Where is the green heart?", "It is at the top right."),
    "follow_up": Turn("And the blue one?", "It is at the bottom."),
    "what_moves": Turn("What moves?", "The orange star moves."),
    "when": Turn("When do you hear the beep?", "At second three."),
}
"""Questions about the scene, the second and third in a row, and about the clip; the small model has heard other voices."""
VOICE, PACE, LOUDNESS = "flite:rms", 1.1, 0.1

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


def ask(question: str, path: Path) -> None:
    """A question in a synthetic voice, without the silence around it."""
    wave, rate = say(question, VOICE, PACE)
    wave = soxr.resample(wave, rate, RATE)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    wave = wave[max(0, loud[0] - RATE // 20) : loud[-1] + RATE // 10]
    soundfile.write(path, LOUDNESS * wave / np.sqrt(np.mean(wave**2)), RATE)


if __name__ == "__main__":
    Image.fromarray(picture(SCENE)).save(HERE / "scene.png", optimize=True)
    write_clip(CLIP, HERE / "clip.mp4", fps=10, sound=beep_track(CLIP, Random(3))[0])
    for name, turn in SPOKEN.items():
        ask(turn.question, HERE / f"{name}.ogg")
    cat(HERE / "cat.jpg")
    ball(HERE / "ball.mp4")
    question(HERE / "question.wav")
