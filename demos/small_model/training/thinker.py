"""Teaches the thinker to answer questions about the world, typed and spoken.

    python -m demos.small_model.training.thinker MINUTES

Its towers are those of `train_towers` and learn no more.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demos.small_model import BUILD
from demos.small_model.nets import passes, senses, sizes
from demos.small_model.nets.embedding import text_table
from demos.small_model.speech import voices
from demos.small_model.training import lessons
from demos.small_model.training.looking import UNASKED
from demos.small_model.training.towers import ROW, WORDS, Ears, Eyes, index_of
from demos.small_model.training.trainer import DEVICE, RANK, WORLD, Trainer
from demos.small_model.world import scenes
from omni.families.qwen2_5_omni import thinker

LOUDNESS = 0.1
"""RMS of the thinker's last hidden rows. The talker reads them added to the embedding, whose RMS is 1."""

TURNS = "svhhsvhshvhst"
PLACED = 0.1
"""Weight of the loss of what rows of pictures, clips and sounds should know."""
KNOWN = {
    2: {"second": 8, "row": 16, "column": 16, "before": len(WORDS), "count": 16},
    3: {"place": len(scenes.PLACES), "change": 3},
    4: {"shape": 1 + len(scenes.SHAPES), "color": 1 + len(scenes.COLOURS)},
}
"""What a row of media should know after how many layers, and its classes.

First where in its picture, clip or sound it lies, of sound also the word before and how many were before; no picture has as
many cells. Then the place of a cell, as people name it, and whether something has appeared there or gone; then what has.
"""
ASKED = {
    "asked color": 1 + len(scenes.COLOURS),
    "asked shape": 1 + len(scenes.SHAPES),
    "asked place": 1 + len(scenes.PLACES),
}
ASKED_LAYER = 3
"""After that many layers the tokens of an answer should know what the question names."""
LOOKING_LAYER, LOOKING = 3, 0.6
"""The layer whose first head looks at what the answer is about, and the weight of that loss."""
SLIPPED, SLIPS = 0.4, 0.15
"""Part of what is repeated in which the model has misheard, and of its words; so that it finds its place again."""


def first_sounds(batch: lessons.Batch) -> list[int]:
    """Index of each lesson's first sound."""
    return [0, *accumulate(batch.sounds)]


def facts(batch: lessons.Batch) -> dict[str, Tensor]:
    """What each row of media should know, in prompt order: int64 `[N]` for each fact of KNOWN, UNASKED where it need not."""
    most = {name: classes - 1 for layer in KNOWN.values() for name, classes in layer.items()}
    first = first_sounds(batch)
    high, wide = (side // senses.CELL for side in (batch.pictures.shape[2:4] if batch.pictures is not None else (0, 0)))
    parts: dict[str, list[Tensor]] = {name: [] for name in most}
    for row, run in batch.runs:
        at = torch.arange(run.first, run.last)
        if run.is_sound:
            starts = [(round(start / ROW), index_of(unit)) for unit, start, _ in batch.heard[first[row] + run.index].units]
            passed = torch.searchsorted(torch.tensor([start for start, _ in starts]), at, right=True)
            named = torch.tensor([0, 0, *(name for _, name in starts)])
            told = {"second": (at * ROW).long(), "before": named[passed], "count": passed}
        else:
            second, y, x = at // (high * wide), at // wide % high, at % wide
            place = (6 * y + 3) // (2 * high) * 3 + (6 * x + 3) // (2 * wide)
            changed = batch.changes[row][run.index][run.first : run.last].unbind(1)
            told = {"second": second, "row": y, "column": x, "place": place}
            told |= dict(zip(("change", "shape", "color"), changed, strict=True))
        for name, known in parts.items():
            known.append(told[name].clamp(max=most[name]) if name in told else torch.full_like(at, UNASKED))
    return {name: torch.cat(known) for name, known in parts.items()}


class Student(nn.Module):
    """The thinker; its head is kept times LOUDNESS, so that it learns as fast as the rest."""

    def __init__(self) -> None:
        super().__init__()
        config = sizes.omni_config().thinker
        self.thinker = thinker(config)
        passes.initialise(self.thinker, config.decoder.num_layers)
        with torch.no_grad():
            self.thinker.embed_tokens.weight.copy_(text_table())
            self.thinker.decoder.norm.weight.fill_(LOUDNESS)
            # a row that holds a word, seen or heard, is then almost an answer; noise parts the forms of a word
            self.thinker.lm_head.weight.copy_(0.09 * (text_table() + 0.3 * torch.randn_like(text_table())))
        self.thinker.requires_grad_(False)
        self.thinker.decoder.layers.requires_grad_(True)
        self.thinker.lm_head.requires_grad_(True)
        known = {name: count for layer in KNOWN.values() for name, count in layer.items()}
        known |= ASKED
        self.probes = nn.ModuleDict({name: nn.Linear(sizes.HIDDEN, count) for name, count in known.items()})

    def open_senses(self) -> None:
        """Take the towers as they are now."""
        for network, tower, name in ((Ears(), self.thinker.audio_tower, "ears"), (Eyes(), self.thinker.visual, "eyes")):
            if not (BUILD / f"{name}.pt").exists():  # the shipped ones, see `resume`
                continue
            assert tower
            state = torch.load(BUILD / f"{name}.pt", map_location="cpu", weights_only=False)["average"]
            network.load_state_dict(state)
            tower.load_state_dict(network.tower.state_dict())

    @torch.no_grad()
    def features(self, batch: lessons.Batch) -> list[Tensor]:
        """Rows of every run of media, in prompt order."""
        pictures: list[list[Tensor]] = []
        if batch.pictures is not None:
            assert self.thinker.visual
            _, _, h, w, _ = batch.pictures.shape
            rows, _ = passes.vision(
                self.thinker.visual, senses.patches(batch.pictures.to(DEVICE)), (h // senses.SIDE, w // senses.SIDE)
            )
            left = list(rows.split([g for gs in batch.grids for g in gs]))
            for grids in batch.grids:
                pictures.append([left.pop(0).flatten(0, 1) for _ in grids])
        heard: list[Tensor] = []
        if batch.heard:
            assert self.thinker.audio_tower
            heard, _, _ = passes.audio(self.thinker.audio_tower, [h.mel.to(DEVICE) for h in batch.heard])
        first = first_sounds(batch)
        return [
            (heard[first[row] + run.index] if run.is_sound else pictures[row][run.index])[run.first : run.last]
            for row, run in batch.runs
        ]

    def look(self, batch: lessons.Batch, x: Tensor) -> Tensor:
        """How little the first head of a layer, which reads x `[B, T, C]`, looks at the rows that the answers are about."""
        decoder = self.thinker.decoder
        layer: Any = decoder.layers[LOOKING_LAYER]
        attn, size = layer.self_attn, decoder.config.head_dim
        first_key = attn.heads[0] * size
        of_both = torch.cat([torch.arange(size), torch.arange(first_key, first_key + size)]).to(x.device)
        x = passes.norm(x, layer.input_layernorm.weight, decoder.config.rms_norm_eps)
        q, k = F.linear(x, attn.qkv_proj.weight[of_both], attn.qkv_proj.bias[of_both]).chunk(2, -1)
        cos, sin = (table[:, 0] for table in passes.rotary(decoder, batch.positions.to(x.device)))
        q, k = passes.turn(q, cos, sin) * size**-0.5, passes.turn(k, cos, sin)
        losses, last = [], x.shape[1]
        for row in {row for row, _, _ in batch.looks}:
            own = [(at, marks) for r, at, marks in batch.looks if r == row]
            places = torch.tensor([at for at, _ in own])
            later = torch.arange(last) > places[:, None]
            there = torch.stack([torch.isin(batch.marks[row], torch.tensor(marks)) for _, marks in own])
            scores = (q[row, places] @ k[row].T).masked_fill(later.to(x.device), -torch.inf).log_softmax(-1)
            seen = there.any(1)
            if seen.any():
                losses.append(-scores.masked_fill(~there.to(x.device), -1e4).logsumexp(-1)[seen])
        return torch.cat(losses).mean() if losses else x.new_zeros(())

    def told(self, rows: Tensor, truths: dict[str, Tensor]) -> Tensor:
        """How badly rows `[N, C]` tell facts, int64 `[N]` each, summed over facts."""
        rows = passes.norm(rows, rows.new_ones(sizes.HIDDEN))
        loss = rows.new_zeros(())
        for name, truth in truths.items():
            asked = truth != UNASKED
            if asked.any():
                loss = loss + F.cross_entropy(self.probes[name](rows[asked]).float(), truth[asked])
        return loss

    def forward(self, batch: lessons.Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits `[N, V]` at the places where the assistant speaks, the truth `[N]`, the losses of facts and of looks."""
        thinker = self.thinker
        with torch.autocast(DEVICE, torch.bfloat16):
            features = self.features(batch)
            ids = batch.ids.to(DEVICE)
            rows = thinker.embed_tokens(ids)
            media = thinker.config.media
            assert media
            is_media = (ids == media.audio) | (ids == media.image) | (ids == media.video)
            if features:
                rows = rows.masked_scatter(is_media[..., None], torch.cat(features).to(rows.dtype))
            hidden, after = passes.decode(thinker.decoder, rows, batch.positions.to(DEVICE))
            wanted = batch.targets >= 0
            logits = F.linear(hidden[wanted] / LOUDNESS, thinker.lm_head.weight)
            placed = logits.new_zeros(())
            truths = dict(zip(ASKED, batch.asked.to(DEVICE)[wanted].unbind(1), strict=True))
            placed = placed + self.told(after[ASKED_LAYER][wanted], truths)
            if features:
                truths = {name: truth.to(DEVICE) for name, truth in facts(batch).items()}
                for layer, of_layer in KNOWN.items():
                    placed = placed + self.told(after[layer][is_media], {name: truths[name] for name in of_layer})
        looks = self.look(batch, after[LOOKING_LAYER].float())
        return logits.float(), batch.targets[wanted].to(DEVICE), placed, looks


def make(teacher: lessons.Teacher, step: int) -> tuple[str, lessons.Batch]:
    """The lessons of a step: pictures, clips, sound and text take turns."""
    turn = step * WORLD + RANK
    rng = Random(turn)
    kind = TURNS[turn % len(TURNS)]
    if kind == "s":
        made = teacher.scenes(rng, 16 // WORLD, 8, 0.0 if rng.random() < 0.6 else 0.85)
    elif kind == "v":
        made = teacher.clips(rng, 16 // WORLD, 5, 0.0 if rng.random() < 0.6 else 0.8)
    elif kind == "h":
        made = teacher.hearing(rng, 24 // WORLD)
    else:
        made = teacher.talk(rng, 24 // WORLD, 8)
    return kind, slip(lessons.collate(made), rng)


def slip(batch: lessons.Batch, rng: Random) -> lessons.Batch:
    """Repetitions in which some words were taken for others of the batch; what is to be said next stays the same."""
    repeated = [(row, first, count) for row, first, count, kind in batch.answers if kind == "repeat"]
    others = [int(token) for row, first, count in repeated for token in batch.targets[row, first : first + count - 1]]
    ids = batch.ids.clone()
    for row, first, count in repeated:
        if rng.random() < SLIPPED:
            for at in range(first + 1, first + count):
                if rng.random() < SLIPS:
                    ids[row, at] = rng.choice(others)
    return replace(batch, ids=ids)


def right(logits: Tensor, truth: Tensor, batch: lessons.Batch) -> list[tuple[str, bool]]:
    """Whether each answer is right to the last token; greedy decoding would then give it."""
    hits = torch.zeros_like(batch.targets, dtype=torch.bool)
    hits[batch.targets >= 0] = (logits.argmax(-1) == truth).cpu()
    return [(kind, bool(hits[row, first : first + count].all())) for row, first, count, kind in batch.answers]


def main(minutes: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = Student()
    teacher = lessons.Teacher(voices.load())
    trainer, start = Trainer(student, BUILD / "thinker.pt", minutes, 2e-3, warm_up=100), time.time()
    for network in (student, trainer.average):
        assert isinstance(network, Student)
        network.open_senses()
    scores: dict[str, list[bool]] = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    while not trainer.done:
        kind, batch = make(teacher, trainer.step)
        logits, truth, placed, looks = student(batch)
        # of answers, not of tokens: most tokens are known, and the losses of facts and looks would drown the rest
        loss = F.cross_entropy(logits, truth, reduction="sum") / len(batch.answers)
        trainer.learn(loss + PLACED * placed + LOOKING * looks)
        losses["placed"].append(placed.item())
        losses["looks"].append(looks.item())
        losses[kind].append(loss.item())
        for name, hit in right(logits, truth, batch):
            scores[name].append(hit)
        if trainer.step % 50 == 0 and RANK == 0:
            told = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(losses.items()))
            known = " ".join(f"{k} {sum(v) / len(v):.2f}" for k, v in sorted(scores.items()))
            speed = (time.time() - start) / 50
            print(
                f"thinker {trainer.step} {trainer.elapsed:.1f} min {speed:.2f} s/step loss {told} | right {known}",
                flush=True,
            )
            start = time.time()
            scores.clear()
            losses.clear()
        trainer.save(every=3)
    trainer.save()


if __name__ == "__main__":
    main(float(sys.argv[1]))
