"""The small world as it is drawn and sounded: what an answer says is there to be seen and heard."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest

from demos.small_model.world import draw, scenes, sounds
from demos.small_model.world.scenes import Actor, Clip, Scene, Sound, Thing
from omni.encoders.waves import read_audio
from tests.encoders.samples import clip_of

RED = Thing("red", "square", 3, 0.5, 1.5, 0.8)
BLUE = Thing("blue", "circle", 8, 2.5, 2.5, 0.8)
CLIP = Clip(121, 93, "white", 4, (Actor(RED, direction="right", begin=1, speed=0.5), Actor(BLUE, shown=2, hidden=3)), beep=2)


def _far(one: draw.Rgb, two: draw.Rgb) -> float:
    return float(np.linalg.norm(np.subtract(one, two)))


def test_colours_stand_out() -> None:
    assert min(_far(draw.COLOUR[c], draw.GROUND[g]) for g in scenes.BACKGROUNDS for c in scenes.visible_colours(g)) > 85
    assert min(_far(draw.COLOUR[one], draw.COLOUR[two]) for one, two in combinations(scenes.COLOURS, 2)) > 85


@pytest.mark.parametrize("size", [None, (56, 112), (448, 224)])
def test_picture_layout(size: tuple[int, int] | None) -> None:
    scene = Scene(101, 202, "white", (RED, BLUE))
    pixels = draw.picture(scene, size)
    width, height = size or (101, 202)
    assert pixels.shape == (height, width, 3)
    for thing in scene.things:
        assert tuple(pixels[int(thing.y * height / 3), int(thing.x * width / 3)]) == draw.COLOUR[thing.colour]
    assert tuple(pixels[height // 2, width // 2]) == draw.GROUND["white"]
    red = np.abs(pixels.astype(int) - draw.COLOUR["red"]).sum(-1) < 60
    across, down = np.ptp(np.nonzero(red.any(0))) + 1, np.ptp(np.nonzero(red.any(1))) + 1
    assert across / width * 101 == pytest.approx(down / height * 202, abs=3)


def test_every_scene_can_be_drawn() -> None:
    rng = Random(0)
    for _ in range(60):
        scene = scenes.scene(rng)
        pixels = draw.picture(scene, rng=rng)
        assert pixels.shape == (scene.height, scene.width, 3) and pixels.dtype == np.uint8


def test_jitter_follows_its_seed() -> None:
    scene = Scene(90, 90, "mint", (RED,))
    one, again, other = (draw.picture(scene, rng=Random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_frames_follow_the_clip() -> None:
    shots = draw.frames(CLIP, 2.0)
    assert shots.shape == (8, 93, 121, 3)
    blue = (np.abs(shots.astype(int) - draw.COLOUR["blue"]).sum(-1) < 30).any((1, 2))
    assert blue.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    red = np.abs(shots.astype(int) - draw.COLOUR["red"]).sum(-1) < 30
    centre = [np.nonzero(shot)[1].mean() * 3 / 121 for shot in red]
    assert centre == pytest.approx([0.5, 0.5, 0.5, 0.75, 1, 1.25, 1.5, 1.75], abs=0.03)


def test_clip_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    sound, _ = sounds.beep_track(CLIP, Random(0))
    draw.write_clip(CLIP, path, fps=2, sound=sound)
    read = clip_of(path)
    assert read.has_audio and len(read.times) == 8
    shots = draw.frames(CLIP, 2.0, (120, 92))
    assert np.abs(np.stack(list(read.frames)).astype(int) - shots).mean() < 5
    loud = np.abs(read_audio(path)) > 0.1
    assert 2 * sounds.RATE <= np.argmax(loud) < 2.5 * sounds.RATE


def test_pitch_goes_up_or_down() -> None:
    rng = Random(0)
    for _ in range(20):
        for kind in ("rise", "fall"):
            wave, _ = sounds.sound_of(Sound(kind), rng)
            assert 1.2 * sounds.RATE <= len(wave) <= 3 * sounds.RATE and wave.dtype == np.float32
            heard = np.nonzero(np.abs(wave) > 0.05)[0]
            ends = wave[heard[0] :][:1600], wave[: heard[-1]][-1600:]
            first, last = (np.argmax(np.abs(np.fft.rfft(end))) for end in ends)
            assert last > 1.2 * first if kind == "rise" else first > 1.2 * last


def test_knocks_can_be_counted() -> None:
    rng = Random(0)
    for count in (1, 2, 4, 6):
        wave = np.abs(sounds.sound_of(Sound("knock", count), rng)[0])
        loud = np.nonzero(wave > 0.5 * wave.max())[0]
        assert 1 + int((np.diff(loud) > 0.1 * sounds.RATE).sum()) == count


def test_soiled_speech_stays_in_range() -> None:
    rng = Random(0)
    wave = (0.9 * np.sin(np.arange(8000) / 10)).astype(np.float32)
    for _ in range(30):
        dirty = sounds.soil(wave, rng)
        assert dirty.dtype == np.float32 and np.abs(dirty).max() <= 0.98
        assert len(wave) <= len(dirty) <= len(wave) + 1.2 * sounds.RATE
