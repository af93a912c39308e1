"""Makes an evaluation set: questions about things that no training saw, asked by voices at speeds that none was trained on.

    python -m demos.small_model.make_eval FOLDER [--share 1.0] [--small]

`omni eval FOLDER` judges a model by it. `--small` makes the set that ships with the package. Needs flite and espeak-ng.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from demos.small_model.speech import voices
from demos.small_model.speech.corpus import VOICES
from demos.small_model.speech.synthesisers import say
from demos.small_model.world import draw, questions, scenes, sounds
from omni.errors import OmniError
from omni.evaluation.evaluate import REPEAT

Wave = NDArray[np.float32]
Tree = dict[str, Any]
RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000)
SMALL_RATES = (8000, 11025, 16000, 24000, 48000)
OPUS = (16000, 24000, 48000)
"""Rates that the codec has; of those, Vorbis takes the others."""
LONGEST = 6.0
"""Seconds of speech."""
SMALL_PICTURE = 12_000
"""Bytes; in the small set a picture that needs more is drawn without grain."""


@dataclass
class Studio:
    """Puts media into a folder, under names that count up."""

    folder: Path
    small: bool
    count: int = 0

    def _path(self, suffix: str) -> Path:
        self.count += 1
        return self.folder / "media" / f"{self.count:05}.{suffix}"

    def _part(self, kind: str, path: Path) -> Tree:
        return {"type": kind, kind: str(path.relative_to(self.folder))}

    def picture(self, scene: scenes.Scene, rng: Random) -> Tree:
        path = self._path("png")
        Image.fromarray(draw.picture(scene, rng=rng)).save(path, optimize=self.small)
        if self.small and path.stat().st_size > SMALL_PICTURE:
            Image.fromarray(draw.picture(scene)).save(path, optimize=True)
        return self._part("image", path)

    def clip(self, clip: scenes.Clip, rng: Random) -> Tree:
        path = self._path("mp4")
        sound = sounds.beep_track(clip, rng)[0] if clip.beep >= 0 or rng.random() < 0.25 else None
        draw.write_clip(clip, path, rng.randint(2, 12), sound, bit_rate=10000 if self.small else 64000)
        return self._part("video", path)

    def sound(self, wave: Wave, rng: Random, lowest: int = 0) -> Tree:
        """Samples at 16 kHz, as a file of some rate."""
        rate = rng.choice([rate for rate in (SMALL_RATES if self.small else RATES) if rate >= lowest])
        return self._part("audio", self.recording(soxr.resample(wave, sounds.RATE, rate), rate, rng.choice(("flac", "ogg"))))

    def recording(self, wave: Wave, rate: int, suffix: str) -> Path:
        path = self._path("ogg" if self.small else suffix)
        subtype = "PCM_16" if path.suffix == ".flac" else "OPUS" if rate in OPUS else "VORBIS"
        level = 0.95 if self.small else None
        soundfile.write(path, wave.clip(-1, 1), rate, subtype=subtype, compression_level=level)
        return path

    def speech(self, text: str, rng: Random, speaker: int | None = None) -> Tree:
        """Said in an ordinary room by some stranger, the same for the same number."""
        who = rng if speaker is None else Random(speaker)
        wave = voices.utter(text, who, "test")[0]
        return self.sound(around(wave, rng, rng.choice((None, rng.uniform(18, 30)))), rng)

    def ceiling(self, text: str, voice: str) -> str:
        wave, rate = say(text, VOICES[voice])
        return str(self.recording(wave, rate, "flac").relative_to(self.folder))


def around(wave: Wave, rng: Random, snr: float | None) -> Wave:
    """Silence before and after, white or brown noise so many dB below the speech, another loudness; `[S]`."""
    before, after = (int(rng.uniform(0.1, 0.9) * sounds.RATE) for _ in range(2))
    made = np.pad(wave, (before, after)).astype(np.float64)
    if snr is not None:
        noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(made))
        if rng.random() < 0.5:
            for i in range(1, len(noise)):
                noise[i] += 0.95 * noise[i - 1]
        loud = np.sqrt(np.mean(np.square(wave)) / np.mean(np.square(noise)))
        made += noise * loud * 10 ** (-snr / 20)
    made *= 10 ** (rng.uniform(-14, 6) / 20)
    return (made / max(1.0, np.abs(made).max() / 0.98)).astype(np.float32)


def turn(content: list[Tree], answer: str, said: str = "") -> Tree:
    return {"content": content, "answer": answer} | ({"said": said} if said else {})


def typed(text: str) -> Tree:
    return {"type": "text", "text": text}


def drawn(make: Callable[[Random], str], rng: Random) -> str:
    """A sentence that was kept from training."""
    while not questions.held_out(text := make(rng)):
        pass
    return text


def any_sentence(rng: Random) -> str:
    asked = questions.any_turn(rng)
    return rng.choice((asked.question, asked.answer))


def any_words(rng: Random) -> str:
    return questions.sentence(questions.some_words(rng, rng.randint(2, 7)))


def asked_scene(rng: Random) -> tuple[scenes.Scene, questions.Turn]:
    while True:
        scene = scenes.scene(rng)
        if turns := questions.scene_turns(scene, rng, 1):
            return scene, turns[0]


# ---------------------------------------------------------------- one case of each row


def hears(at: Studio, rng: Random, i: int) -> Tree:
    noisy = i % 2 == 1
    while True:
        text = drawn(lambda r: questions.any_turn(r).question, rng)
        wave = voices.utter(text, rng, "test")[0]
        if len(wave) < LONGEST * sounds.RATE:
            break
    made = around(wave, rng, rng.uniform(10, 14) if noisy else None)
    heard = at.sound(made, rng, 0 if noisy else sounds.RATE)
    return {"turns": [turn([heard, typed(REPEAT)], text)], "clean": not noisy}


def sees(at: Studio, rng: Random, i: int) -> Tree:
    scene, asked = asked_scene(rng)
    return {"turns": [turn([at.picture(scene, rng), typed(asked.question)], asked.answer)]}


def _watches(at: Studio, rng: Random, *, time: bool) -> Tree:
    while True:
        clip = scenes.clip(rng)
        if turns := questions.clip_turns(clip, rng, 1, time):
            return {"turns": [turn([at.clip(clip, rng), typed(turns[0].question)], turns[0].answer)]}


def watches(at: Studio, rng: Random, i: int) -> Tree:
    return _watches(at, rng, time=False)


def when(at: Studio, rng: Random, i: int) -> Tree:
    return _watches(at, rng, time=True)


def listens(at: Studio, rng: Random, i: int) -> Tree:
    sound = scenes.sound(rng)
    asked = questions.sound_turns(sound, rng, 1)[0]
    wave, _ = sounds.sound_of(sound, rng)
    heard = at.sound(sounds.soil(wave, rng) if i % 2 else wave, rng, sounds.RATE)
    return {"turns": [turn([heard, typed(asked.question)], asked.answer)]}


def converses(at: Studio, rng: Random, i: int) -> Tree:
    asked: list[questions.Turn] = []
    if i % 3 == 2:
        while len(asked) < 2:
            clip = scenes.clip(rng)
            asked = questions.clip_turns(clip, rng, 2)
        shown = at.clip(clip, rng)
    else:
        while len(asked) < 2:
            scene = scenes.scene(rng)
            asked = questions.scene_dialogue(scene, rng)
        if i % 3:
            asked += [t for t in questions.scene_turns(scene, rng, 1) if t not in asked]
        shown = at.picture(scene, rng)
    speaker = rng.getrandbits(32)
    said = [turn([at.speech(t.question, rng, speaker)], t.answer, t.question) for t in asked]
    said[0]["content"].insert(0, shown)
    return {"turns": said}


def speaks(at: Studio, rng: Random, i: int) -> Tree:
    voice = tuple(VOICES)[i % 2]
    if i % 4 < 2:
        asked = questions.talk_turn(rng)
        content = [typed(asked.question)]
    else:
        scene, asked = asked_scene(rng)
        content = [at.picture(scene, rng), typed(asked.question)]
    return {"turns": [turn(content, asked.answer)], "voice": voice, "ceiling": at.ceiling(asked.answer, voice)}


def says(at: Studio, rng: Random, i: int) -> Tree:
    voice = tuple(VOICES)[i % 2]
    text = drawn(any_sentence if i % 4 < 2 else any_words, rng)
    return {"say": text, "voice": voice, "ceiling": at.ceiling(text, voice)}


def stops(at: Studio, rng: Random, i: int) -> Tree:
    asked = questions.outside_turn(rng, voices.strangers("test"))
    content = [typed(asked.question)] if i % 2 else [at.speech(asked.question, rng)]
    return {"turns": [turn(content, asked.answer, "" if i % 2 else asked.question)], "voice": tuple(VOICES)[i // 2 % 2]}


def fast(at: Studio, rng: Random, i: int) -> Tree:
    scene, asked = asked_scene(rng)
    content = [at.picture(scene, rng), at.speech(asked.question, rng)]
    return {"turns": [turn(content, asked.answer, asked.question)], "voice": tuple(VOICES)[i % 2]}


@dataclass(frozen=True)
class Plan:
    """A row, how many cases it has in the full and in the small set, and what makes one."""

    make: Callable[[Studio, Random, int], Tree]
    full: int
    small: int
    title: str
    metric: str
    marks: dict[str, dict[str, float]]


PLANS = (
    Plan(
        hears, 300, 28, "words of held-out spoken sentences, half of them in noise, 8-48 kHz", "words",
        {"all words": {"at_least": 0.9}, "clean words": {"at_least": 0.95}},
    ),
    Plan(
        sees, 500, 42, "counts, colors, shapes, places, numbers and words in pictures of 64-1024 px", "exact",
        {"exact": {"at_least": 0.9}},
    ),
    Plan(watches, 200, 16, "what moves, which way, and first, in clips of 2-6 s", "exact", {"exact": {"at_least": 0.85}}),
    Plan(when, 200, 12, "at which second something happens in a clip", "exact", {"exact": {"at_least": 0.8}}),
    Plan(listens, 200, 20, "tones that go up or down, knocks counted", "exact", {"exact": {"at_least": 0.85}}),
    Plan(
        converses, 200, 12, "dialogues asked aloud about a picture or clip, every answer right", "exact",
        {"exact": {"at_least": 0.8}},
    ),
    Plan(
        speaks, 200, 10, "words of spoken answers that a recogniser understands", "speech",
        {"recognised": {"at_least": 0.8}, "ceiling": {}, "below ceiling": {"at_most": 0.1}, "ended": {"at_least": 0.9}},
    ),
    Plan(
        says, 100, 10, "words of given sentences, understood by a recogniser and by its own ears", "say",
        {"recognised": {"at_least": 0.8}, "ceiling": {}, "own ears": {"at_least": 0.9}, "ended": {"at_least": 0.9}},
    ),
    Plan(
        stops, 100, 14, "says that it does not know, typed and spoken questions, and ends by itself", "stops",
        {"exact": {"at_least": 0.9}, "ended": {"at_least": 0.9}},
    ),
    Plan(
        fast, 20, 5, "spoken answers to spoken questions about a picture, medians while streaming", "speed",
        {"real-time factor": {"at_most": 0.7}, "first sound (s)": {"at_most": 0.6}},
    ),
)  # fmt: skip


def typical(count: int) -> list[str]:
    """Every word of the world, and sentences as they come up in it, whether or not a case has them."""
    rng = Random("typical")
    return [*questions.vocabulary(), *((any_sentence if rng.random() < 0.7 else any_words)(rng) for _ in range(count))]


def make(folder: Path, share: float, small: bool) -> None:
    (folder / "media").mkdir(parents=True)
    at = Studio(folder, small)
    counts = {plan.make.__name__: plan.small if small else max(1, round(share * plan.full)) for plan in PLANS}
    jobs = [(plan, i) for plan in PLANS for i in range(counts[plan.make.__name__])]
    with (folder / "cases.jsonl").open("w") as file:
        for plan, i in track(jobs, "cases"):
            row = plan.make.__name__
            file.write(json.dumps({"row": row} | plan.make(at, Random(f"evaluation {row} {i}"), i)) + "\n")
    rows = {plan.make.__name__: {"title": plan.title, "metric": plan.metric, "marks": plan.marks} for plan in PLANS}
    (folder / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "sentences.txt").write_text("\n".join(typical(1000 if small else 3000)) + "\n")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {len(jobs)} cases, {total / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the full set's cases")
    parser.add_argument("--small", action="store_true", help="the set that ships with the package")
    args = parser.parse_args()
    if args.folder.exists():
        if not (args.folder / "cases.jsonl").exists():
            sys.exit(f"{args.folder} is there and holds no evaluation set; name another folder")
        shutil.rmtree(args.folder)
    try:
        make(args.folder, args.share, args.small)
    except OmniError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
