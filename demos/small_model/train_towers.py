"""Teaches the towers what there is, before anyone asks: letters and words in sounds, shapes and letters in pictures.

    python -m demos.small_model.train_towers ears|eyes MINUTES

The heads that say so are only for training. Sounds are read by letters, with CTC, from the frames; and every row says which
word is being spoken, and which ends. Every cell of a picture says which shape, colour or letter lies in it, and whose centre
it holds.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
import torch.nn.functional as F
from PIL import ImageFont
from torch import Tensor, nn

from demos.small_model import BUILD, draw, nets, senses, shape, sounds, voices, words, world
from demos.small_model.espeak import Unit
from demos.small_model.table import text_table
from demos.small_model.trainer import DEVICE, RANK, WORLD, Means, Trainer
from omni.encoders.audio import AudioTower
from omni.encoders.vision import VisionTower

ROW = 0.04
LETTERS = "abcdefghijklmnopqrstuvwxyz "
GLYPHS = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = {
    "shape": world.SHAPES,
    "colour": world.COLOURS,
    "glyph": tuple(GLYPHS),
    "word": world.READABLE,
    "way": world.DIRECTIONS,
    "centre": ("centre",),
}
"""What the cells of a picture are asked; 0 is nothing."""
LOUD = 0.05
"""A row that holds a word's embedding once has a logit of LOUD times its size, 192."""


class Named(nn.Module):
    """Logits of rows for nothing and for each of some words: how much of a word's embedding lies in a row.

    So the towers learn to speak in words that the thinker knows, and it need not learn a second language.
    """

    table: Tensor

    def __init__(self, names: Sequence[str], others: int = 0) -> None:
        """`others`: classes besides that are no words."""
        super().__init__()
        ids = [words.encode(name if len(name) == 1 else f" {name}")[0] for name in names]
        self.register_buffer("table", text_table()[ids], persistent=False)
        self.others = nn.Linear(self.table.shape[1], 1 + others)
        with torch.no_grad():
            self.others.weight.zero_()
            self.others.bias.fill_(math.log(1 + len(names)))

    def forward(self, rows: Tensor) -> Tensor:
        """`[..., 1 + words + others]`."""
        with torch.autocast(DEVICE, enabled=False):
            nothing, others = self.others(rows.float()).tensor_split((1,), -1)
            return torch.cat((nothing, LOUD * F.linear(rows.float(), self.table), others), -1)


class Ears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = shape.omni_config().thinker.audio
        self.tower = AudioTower(config)
        self.words = [w.lower() for w in words.all_words()]
        self.index = {w: i + 1 for i, w in enumerate(self.words)}
        nets.initialise(self.tower, config.encoder_layers)
        self.by_letter = nn.Linear(config.d_model, len(LETTERS) + 1)
        self.by_word = Named(words.all_words(), 1)
        self.ending = nn.Linear(config.output_dim, 2)

    def spell(self, text: str) -> list[int]:
        return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]

    def index_of(self, word: str) -> int:
        return self.index.get(word.lower(), len(self.words) + 1)

    def labels(self, units: list[Unit], rows: int) -> tuple[Tensor, Tensor]:
        """For each row of 40 ms the word that is spoken at its middle, 0 for none, and whether the word ends in it."""
        word, ends = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
        for unit, start, end in units:
            first, last = round(start / ROW), max(round(start / ROW) + 1, round(end / ROW))
            word[first:last] = self.index_of(unit)
            ends[min(rows, last) - 1] = 1
        return word, ends

    def loss(self, heard: list[senses.Heard]) -> tuple[Tensor, Tensor, float]:
        """As `judge`, of sounds."""
        with torch.autocast(DEVICE, torch.bfloat16):
            rows, frames = nets.audio(self.tower, [h.mel.to(DEVICE) for h in heard])
        return self.judge(rows, frames, [h.units for h in heard])

    def judge(
        self, rows: Sequence[Tensor], frames: Sequence[Tensor], units: Sequence[list[Unit]]
    ) -> tuple[Tensor, Tensor, float]:
        """CTC by letters, per letter; cross-entropy of words and ends, per row; the share of rows whose word is right."""
        with torch.autocast(DEVICE, torch.bfloat16):
            joined = torch.cat(list(rows))
            letters, named, ending = self.by_letter(torch.cat(list(frames))), self.by_word(joined), self.ending(joined)
        lens = [len(f) for f in frames]
        padded = nn.utils.rnn.pad_sequence(list(letters.cpu().float().log_softmax(-1).split(lens)))
        spelt = [self.spell(" ".join(unit for unit, _, _ in some)) for some in units]
        counts = torch.tensor([len(s) for s in spelt])
        flat = torch.tensor([i for s in spelt for i in s])
        ctc = F.ctc_loss(padded, flat, torch.tensor(lens), counts, reduction="none", zero_infinity=True)
        truths = [self.labels(some, len(r)) for some, r in zip(units, rows, strict=True)]
        word, ends = (torch.cat([t[k] for t in truths]).to(DEVICE) for k in (0, 1))
        loss = F.cross_entropy(named.float(), word) + F.cross_entropy(ending.float(), ends)
        right = (named.argmax(-1) == word)[word > 0].float().mean().item()
        return ctc.sum() / max(1, len(flat)), loss, right

    @torch.no_grad()
    def transcribe(self, mel: Tensor) -> str:
        """The words at whose ends a row stands."""
        (row,), _ = nets.audio(self.tower, [mel.to(DEVICE)])
        named, ends = self.by_word(row).argmax(-1).tolist(), self.ending(row).argmax(-1).tolist()
        return " ".join([*self.words, "?"][w - 1] for w, e in zip(named, ends, strict=True) if w and e)


class Eyes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = shape.omni_config().thinker.vision
        self.tower = VisionTower(config)
        nets.initialise(self.tower, config.depth)
        self.heads = nn.ModuleDict({kind: Named(names) for kind, names in NAMES.items() if kind != "centre"})
        self.heads["centre"] = Named((), 1)

    def loss(self, pixels: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """As `judge`, of pictures."""
        _, _, h, w, _ = pixels.shape
        with torch.autocast(DEVICE, torch.bfloat16):
            patches = senses.patches(pixels.to(DEVICE))
            rows = nets.vision(self.tower, patches, (h // senses.SIDE, w // senses.SIDE))
        return self.judge(rows, labels)

    def judge(self, rows: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy over cells `[B, cells]`, and the share of the cells with something in them that are right."""
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = {kind: head(rows).float().cpu() for kind, head in self.heads.items()}
        total, right = torch.zeros(()), {}
        for kind, truth in labels.items():
            # most cells hold nothing
            weight = torch.ones(1 + len(NAMES[kind])).index_fill_(0, torch.tensor([0]), 0.1)
            total = total + F.cross_entropy(logits[kind].flatten(0, -2), truth.flatten(), weight)
            some = truth > 0
            if some.any():
                right[kind] = (logits[kind].argmax(-1) == truth)[some].float().mean().item()
        return total, right


def cell_labels(
    things: list[tuple[world.Thing, str]], text: str, ink: str, canvas: tuple[int, int], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Class of each cell `[rows * columns]` of a picture of (height, width), 0 for nothing."""
    rows, columns = size[0] // senses.CELL, size[1] // senses.CELL
    out = {kind: torch.zeros(rows, columns, dtype=torch.int64) for kind in NAMES}
    yc, xc = (torch.arange(rows) + 0.5)[:, None], (torch.arange(columns) + 0.5)[None]
    for thing, way in things:
        x, y = thing.x / 3 * columns, thing.y / 3 * rows
        radius = 0.5 * thing.size * min(canvas) / 3
        near = ((xc - x) / columns * canvas[0]) ** 2 + ((yc - y) / rows * canvas[1]) ** 2 < (0.9 * radius) ** 2
        r, c = min(rows - 1, int(y)), min(columns - 1, int(x))
        for kind, value in (("shape", world.SHAPES.index(thing.shape)), ("colour", world.COLOURS.index(thing.colour))):
            out[kind][near] = value + 1
            out[kind][r, c] = value + 1
        out["centre"][r, c] = 1
        if way:
            out["way"][r, c] = world.DIRECTIONS.index(way) + 1
    if text:
        mask = draw.lettering(text)
        scale = min(0.8 * canvas[0] / mask.width, 0.6 * canvas[1] / mask.height)
        wide = mask.width * scale / canvas[0] * columns
        font = ImageFont.load_default(draw.GLYPHS)
        whole = font.getlength(text)
        for i, glyph in enumerate(text):
            middle = (font.getlength(text[:i]) + font.getlength(text[: i + 1])) / 2 / whole
            c = int((columns - wide) / 2 + middle * wide)
            out["glyph"][rows // 2, min(columns - 1, c)] = GLYPHS.index(glyph.lower()) + 1
            if text in world.READABLE:
                out["word"][rows // 2, min(columns - 1, c)] = world.READABLE.index(text) + 1
            out["colour"][rows // 2, min(columns - 1, c)] = world.COLOURS.index(ink) + 1
    return {kind: value.flatten() for kind, value in out.items()}


def stack_labels(labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.stack([l[kind] for l in labels]) for kind in NAMES}


def scene_batch(rng: Random, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    canvas = world.canvas(rng)
    size = senses.picture_size(*canvas)
    pictures, labels = [], []
    for _ in range(count):
        scene = senses.on_canvas(world.scene(rng), canvas)
        if not scene.text and rng.random() < 0.4:  # letters are what takes longest
            scene = senses.on_canvas(world.scene(rng), canvas)
        pictures.append(torch.from_numpy(senses.see(scene, size, rng)))
        labels.append(cell_labels([(t, "") for t in scene.things], scene.text, scene.ink, canvas, size))
    pixels = torch.stack(pictures)[:, None].expand(-1, 2, -1, -1, -1)
    return pixels, stack_labels(labels)


def clip_batch(rng: Random, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    first = world.clip(rng)
    canvas = (first.width, first.height)
    size = senses.frame_size(*canvas)
    grids: list[Tensor] = []
    labels = []
    while len(grids) < count:
        clip = replace(world.clip(rng), width=canvas[0], height=canvas[1])
        frames = torch.from_numpy(senses.watch(clip, size, rng)).unflatten(0, (-1, 2))
        for second in rng.sample(range(clip.seconds), min(3, clip.seconds)):
            things = []
            for actor, at in zip(clip.actors, draw.placed_at(clip, second + 0.5), strict=True):
                if at is not None:
                    moving = (
                        actor.direction
                        and actor.begin <= second
                        and draw.placed_at(clip, second)[clip.actors.index(actor)] != at
                    )
                    things.append((at, actor.direction if moving else ""))
            grids.append(frames[second])
            labels.append(cell_labels(things, "", "", canvas, size))
    return torch.stack(grids[:count]), stack_labels(labels[:count])


def train_eyes(minutes: float) -> None:
    eyes = Eyes()
    trainer, means, start = Trainer(eyes, BUILD / "eyes.pt", minutes, 2e-3), Means(), time.time()
    while not trainer.done:
        turn = trainer.step * WORLD + RANK
        rng = Random(turn)
        pixels, labels = clip_batch(rng, 96) if turn % 4 == 3 else scene_batch(rng, 32)
        loss, right = eyes.loss(pixels, labels)
        trainer.learn(loss)
        means.add(loss=loss.item(), **right)
        if trainer.step % 50 == 0 and RANK == 0:
            print(
                f"eyes {trainer.step} {trainer.elapsed:.1f} min {means.take()} {(time.time() - start) / 50:.2f} s/step",
                flush=True,
            )
            start = time.time()
        trainer.save(every=3)
    trainer.save()


def sound_heard(sound: world.Sound, rng: Random) -> senses.Heard:
    """A sound that is not speech, in half of the cases as a poor microphone hears it."""
    wave, units = sounds.sound_of(sound, rng)
    if rng.random() < 0.5:
        return senses.Heard(senses.mel(wave), units)
    wave, later = sounds.soiled(wave, rng)
    return senses.Heard(senses.mel(wave), [(name, start + later, end + later) for name, start, end in units])


def ear_batch(rng: Random, spoken: list[voices.Utterance], count: int) -> list[senses.Heard]:
    """Utterances of about one length, soiled; and now and then a sound that is not speech."""
    start = rng.randrange(len(spoken) - 8 * count)
    out = []
    for utterance in rng.sample(spoken[start : start + 8 * count], count):
        if rng.random() < 0.12:
            out.append(sound_heard(world.sound(rng), rng))
            continue
        heard = voices.soiled(utterance, rng, again=True)
        mel = heard.mel
        for axis, widest in ((0, 10), (1, 16)):  # SpecAugment, arXiv 1904.08779
            if rng.random() < 0.4:
                at, width = rng.randrange(mel.shape[axis]), rng.randrange(1, widest)
                mel.narrow(axis, at, min(width, mel.shape[axis] - at)).fill_(mel.mean().item())
        out.append(heard)
    return out


def train_ears(minutes: float) -> None:
    ears = Ears()
    spoken = sorted(voices.load(), key=lambda u: len(u["wave"]))
    held, spoken = spoken[::100], [u for i, u in enumerate(spoken) if i % 100]
    tests = [voices.soiled(u, Random(i), again=False) for i, u in enumerate(held)]
    trainer, means, start = Trainer(ears, BUILD / "ears.pt", minutes, 2e-3), Means(), time.time()
    while not trainer.done:
        letters, named, right = ears.loss(ear_batch(Random(trainer.step * WORLD + RANK), spoken, 28))
        trainer.learn(0.5 * letters + named)
        means.add(letters=letters.item(), words=named.item(), right=right)
        if trainer.step % 50 == 0 and RANK == 0:
            speed = (time.time() - start) / 50
            print(f"ears {trainer.step} {trainer.elapsed:.1f} min {means.take()} {speed:.2f} s/step", flush=True)
            start = time.time()
        if trainer.step % 400 == 0 and RANK == 0:
            network = trainer.average
            assert isinstance(network, Ears)
            heard = [network.transcribe(t.mel) for t in tests]
            said = [" ".join([*ears.words, "?"][ears.index_of(u) - 1] for u, _, _ in t.units) for t in tests]
            exact = sum(a == b for a, b in zip(heard, said, strict=True)) / len(held)
            print(f"  whole sentences right {exact:.3f}: {heard[len(held) // 2]!r} for {said[len(held) // 2]!r}", flush=True)
        trainer.save(every=3)
    trainer.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    {"eyes": train_eyes, "ears": train_ears}[sys.argv[1]](float(sys.argv[2]))
