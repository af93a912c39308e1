"""Teaches the towers what there is, before anyone asks: letters and words in sounds, shapes and letters in pictures.

    python -m demos.small_model.training.towers ears|eyes MINUTES

The rows of a tower are words that the thinker knows: that of a piece of sound is near the embedding of the word that is
being spoken, and that of a thing's centre near the sum of its shape's and its colour's; so the thinker need not learn a
second language. Heads that are only for training teach more: sounds are spelt by letters, with CTC, and every cell of a
picture says which shape, colour or letter lies in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
import torch.nn.functional as F
from PIL import ImageFont
from torch import Tensor, nn

from demos.small_model import BUILD
from demos.small_model.nets import passes, senses, sizes, words
from demos.small_model.nets.embedding import text_table
from demos.small_model.speech import voices
from demos.small_model.speech.espeak import Unit
from demos.small_model.training.trainer import DEVICE, RANK, WORLD, Means, Trainer
from demos.small_model.world import draw, scenes, sounds
from omni.encoders.audio import AudioTower
from omni.encoders.vision import VisionTower

ROW = 0.04
LETTERS = "abcdefghijklmnopqrstuvwxyz "
GLYPHS = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = {
    "shape": scenes.SHAPES,
    "colour": scenes.COLOURS,
    "glyph": tuple(GLYPHS),
    "word": scenes.READABLE,
    "way": scenes.DIRECTIONS,
    "centre": ("centre",),
}
"""What the cells of a picture are asked; 0 is nothing."""
FAR = 3.0
"""Weight of the rows' distance from what they should mean."""
WORDS = (",", *(word.lower() for word in words.all_words()), "?")
"""What a row of sound can be asked for: nothing, a word or sound that is known, another."""
INDEX = {word: i for i, word in enumerate(WORDS) if i}


def meanings(names: Sequence[str]) -> Tensor:
    """The thinker's embeddings of words or signs, `[names, C]`."""
    return text_table()[[words.encode(name if len(name) == 1 else f" {name}")[0] for name in names]]


def index_of(word: str) -> int:
    return INDEX.get(word.lower(), len(WORDS) - 1)


class Ears(nn.Module):
    meaning: Tensor
    end: Tensor

    def __init__(self) -> None:
        super().__init__()
        config = sizes.omni_config().thinker.audio
        assert config
        self.tower = AudioTower(config)
        passes.initialise(self.tower, config.encoder_layers)
        self.by_letter = nn.Linear(config.d_model, len(LETTERS) + 1)
        self.by_word = nn.Linear(config.d_model, len(WORDS))
        self.ending = nn.Linear(config.d_model, 2)
        self.register_buffer("meaning", meanings(WORDS), persistent=False)
        self.register_buffer("end", meanings(["."])[0], persistent=False)

    def spell(self, text: str) -> list[int]:
        return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]

    def labels(self, units: list[Unit], rows: int) -> tuple[Tensor, Tensor]:
        """For each row of 40 ms the word that is spoken at its middle, 0 for none, and whether the word ends in it."""
        word, ends = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
        for unit, start, end in units:
            first, last = round(start / ROW), max(round(start / ROW) + 1, round(end / ROW))
            word[first:last] = index_of(unit)
            ends[min(rows, last) - 1] = 1
        return word, ends

    def loss(self, heard: list[senses.Heard]) -> tuple[Tensor, dict[str, float]]:
        """CTC by letters, cross-entropy of words and their ends, and how far the rows are from what they should mean."""
        with torch.autocast(DEVICE, torch.bfloat16):
            rows, frames, pairs = passes.audio(self.tower, [h.mel.to(DEVICE) for h in heard])
            letters, named, ending = self.by_letter(torch.cat(frames)), self.by_word(pairs), self.ending(pairs)
        lens = [len(f) for f in frames]
        padded = nn.utils.rnn.pad_sequence(list(letters.cpu().float().log_softmax(-1).split(lens)))
        spelt = [self.spell(" ".join(unit for unit, _, _ in h.units)) for h in heard]
        counts = torch.tensor([len(s) for s in spelt])
        flat = torch.tensor([i for s in spelt for i in s])
        ctc = F.ctc_loss(padded, flat, torch.tensor(lens), counts, reduction="none", zero_infinity=True)
        ctc = ctc.sum() / max(1, len(flat))
        truths = [self.labels(h.units, len(r)) for h, r in zip(heard, rows, strict=True)]
        word, ends = (torch.cat([t[k] for t in truths]).to(DEVICE) for k in (0, 1))
        named_loss = F.cross_entropy(named.float(), word) + F.cross_entropy(ending.float(), ends)
        meant = torch.cat(rows).float()
        far = F.mse_loss(meant, self.meaning[word] + ends[:, None] * self.end)
        right = ((meant @ self.meaning.T).argmax(-1) == word)[word > 0].float().mean()
        told = {"letters": ctc.item(), "words": named_loss.item(), "far": far.item(), "right": right.item()}
        return 0.5 * ctc + named_loss + FAR * far, told

    @torch.no_grad()
    def transcribe(self, mel: Tensor) -> str:
        """The words at whose ends a row stands."""
        (row,), _, _ = passes.audio(self.tower, [mel.to(DEVICE)])
        named, ends = (row @ self.meaning.T).argmax(-1).tolist(), (row @ self.end > 0.5 * len(self.end)).tolist()
        return " ".join(WORDS[w] for w, e in zip(named, ends, strict=True) if w and e)


class Eyes(nn.Module):
    nothing: Tensor

    def __init__(self) -> None:
        super().__init__()
        config = sizes.omni_config().thinker.vision
        assert config
        self.tower = VisionTower(config)
        passes.initialise(self.tower, config.depth)
        width = passes.MERGE * config.hidden_size
        self.heads = nn.ModuleDict({kind: nn.Linear(width, 1 + len(names)) for kind, names in NAMES.items()})
        for kind, names in NAMES.items():
            self.register_buffer(f"of_{kind}", F.pad(meanings(names), (0, 0, 1, 0)), persistent=False)
        self.register_buffer("nothing", meanings(["nothing"])[0], persistent=False)

    def meant(self, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the rows of cells should be, `[B, cells, C]`: a thing's words at its centre, a sign's where it stands.

        And which cells hold something, `[B, cells]`.
        """
        some = (labels["centre"] > 0) | (labels["glyph"] > 0)
        parts = [self.get_buffer(f"of_{kind}")[label] for kind, label in labels.items() if kind != "centre"]
        return torch.where(some[..., None], torch.stack(parts).sum(0), self.nothing), some

    def loss(self, pixels: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of what lies in each cell, and how far the rows are from what they should mean.

        And the share of the rows that hold something of a kind and are nearest to its word.
        """
        labels = {kind: label.to(DEVICE) for kind, label in labels.items()}
        _, _, h, w, _ = pixels.shape
        with torch.autocast(DEVICE, torch.bfloat16):
            patches = senses.patches(pixels.to(DEVICE))
            rows, cells = passes.vision(self.tower, patches, (h // senses.SIDE, w // senses.SIDE))
            logits = {kind: head(cells) for kind, head in self.heads.items()}
        rows = rows.float()
        total = rows.new_zeros(())
        for kind, truth in labels.items():
            # most cells hold nothing
            weight = torch.tensor([0.1] + [1.0] * len(NAMES[kind]), device=DEVICE)
            total = total + F.cross_entropy(logits[kind].float().flatten(0, -2), truth.flatten(), weight)
        meant, some = self.meant(labels)
        weight = torch.where(some, 1.0, 0.1)
        far = (weight * (rows - meant).square().mean(-1)).sum() / weight.sum()
        told = {"heads": total.item(), "far": far.item()}
        for kind, truth in labels.items():
            there = some & (truth > 0)
            if kind != "centre" and there.any():
                scores = rows[there] @ self.get_buffer(f"of_{kind}")[1:].T
                told[kind] = (scores.argmax(-1) + 1 == truth[there]).float().mean().item()
        clear = (rows @ self.nothing > 0.5 * len(self.nothing)) != some
        told["place"] = clear.float().mean().item()
        return total + FAR * far, told


def cell_labels(
    things: list[tuple[scenes.Thing, str]], text: str, ink: str, canvas: tuple[int, int], size: tuple[int, int]
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
        for kind, value in (("shape", scenes.SHAPES.index(thing.shape)), ("colour", scenes.COLOURS.index(thing.colour))):
            out[kind][near] = value + 1
            out[kind][r, c] = value + 1
        out["centre"][r, c] = 1
        if way:
            out["way"][r, c] = scenes.DIRECTIONS.index(way) + 1
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
            if text in scenes.READABLE:
                out["word"][rows // 2, min(columns - 1, c)] = scenes.READABLE.index(text) + 1
            out["colour"][rows // 2, min(columns - 1, c)] = scenes.COLOURS.index(ink) + 1
    return {kind: value.flatten() for kind, value in out.items()}


def stack_labels(labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.stack([l[kind] for l in labels]) for kind in NAMES}


def scene_batch(rng: Random, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    canvas = scenes.canvas(rng)
    size = senses.picture_size(*canvas)
    pictures, labels = [], []
    for _ in range(count):
        scene = senses.on_canvas(scenes.scene(rng), canvas)
        if not scene.text and rng.random() < 0.4:  # letters are what takes longest
            scene = senses.on_canvas(scenes.scene(rng), canvas)
        pictures.append(torch.from_numpy(senses.see(scene, size, rng)))
        labels.append(cell_labels([(t, "") for t in scene.things], scene.text, scene.ink, canvas, size))
    pixels = torch.stack(pictures)[:, None].expand(-1, 2, -1, -1, -1)
    return pixels, stack_labels(labels)


def clip_batch(rng: Random, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    first = scenes.clip(rng)
    canvas = (first.width, first.height)
    size = senses.frame_size(*canvas)
    grids: list[Tensor] = []
    labels = []
    while len(grids) < count:
        clip = replace(scenes.clip(rng), width=canvas[0], height=canvas[1])
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
        pixels, labels = clip_batch(rng, 96) if turn % 2 else scene_batch(rng, 32)
        loss, told = eyes.loss(pixels, labels)
        trainer.learn(loss)
        means.add(**told)
        if trainer.step % 50 == 0 and RANK == 0:
            print(
                f"eyes {trainer.step} {trainer.elapsed:.1f} min {means.take()} {(time.time() - start) / 50:.2f} s/step",
                flush=True,
            )
            start = time.time()
        trainer.save(every=3)
    trainer.save()


def sound_heard(sound: scenes.Sound, rng: Random) -> senses.Heard:
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
            out.append(sound_heard(scenes.sound(rng), rng))
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
        loss, told = ears.loss(ear_batch(Random(trainer.step * WORLD + RANK), spoken, 28))
        trainer.learn(loss)
        means.add(**told)
        if trainer.step % 50 == 0 and RANK == 0:
            speed = (time.time() - start) / 50
            print(f"ears {trainer.step} {trainer.elapsed:.1f} min {means.take()} {speed:.2f} s/step", flush=True)
            start = time.time()
        if trainer.step % 400 == 0 and RANK == 0:
            network = trainer.average
            assert isinstance(network, Ears)
            heard = [network.transcribe(t.mel) for t in tests]
            said = [" ".join(WORDS[index_of(u)] for u, _, _ in t.units) for t in tests]
            exact = sum(a == b for a, b in zip(heard, said, strict=True)) / len(held)
            print(f"  whole sentences right {exact:.3f}: {heard[len(held) // 2]!r} for {said[len(held) // 2]!r}", flush=True)
        trainer.save(every=3)
    trainer.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    {"eyes": train_eyes, "ears": train_ears}[sys.argv[1]](float(sys.argv[2]))
