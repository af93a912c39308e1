"""Teaches the thinker to answer questions about the world, typed and spoken.

    python -m demos.small_model.train_thinker MINUTES

Its towers are those of `train_towers` and learn no more.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demos.small_model import BUILD, lessons, nets, senses, shape, voices
from demos.small_model.table import text_table
from demos.small_model.train_towers import Ears, Eyes
from demos.small_model.trainer import DEVICE, RANK, WORLD, Trainer
from omni.thinker import Thinker

LOUDNESS = 0.1
"""RMS of the thinker's last hidden rows. The talker reads them added to the embedding, whose RMS is 1."""

TURNS = "svhtsvshsvt"
PLACED_BY, PLACED = 2, 0.1
"""Layers after which a row of a picture or clip can say where it lies, and the weight of that loss."""
MOST = {"second": 8, "row": 16, "column": 16}
"""Classes of places; no picture has as many cells."""


class Student(nn.Module):
    """The thinker; its head is kept times LOUDNESS, so that it learns as fast as the rest."""

    def __init__(self) -> None:
        super().__init__()
        config = shape.omni_config().thinker
        self.thinker = Thinker(config)
        nets.initialise(self.thinker, config.decoder.num_layers)
        with torch.no_grad():
            self.thinker.embed_tokens.weight.copy_(text_table())
            self.thinker.decoder.norm.weight.fill_(LOUDNESS)
            # a row that holds a word, seen or heard, is then almost an answer; noise parts the forms of a word
            self.thinker.lm_head.weight.copy_(0.09 * (text_table() + 0.3 * torch.randn_like(text_table())))
        self.thinker.requires_grad_(False)
        self.thinker.decoder.layers.requires_grad_(True)
        self.thinker.lm_head.requires_grad_(True)
        self.places = nn.ModuleDict({name: nn.Linear(shape.HIDDEN, count) for name, count in MOST.items()})

    def open_senses(self) -> None:
        """Take the towers as they are now."""
        for network, tower, name in ((Ears(), self.thinker.audio_tower, "ears"), (Eyes(), self.thinker.visual, "eyes")):
            state = torch.load(BUILD / f"{name}.pt", map_location="cpu", weights_only=False)["average"]
            network.load_state_dict(state)
            tower.load_state_dict(network.tower.state_dict())

    @torch.no_grad()
    def features(self, batch: lessons.Batch) -> tuple[list[Tensor], Tensor]:
        """Rows of every run of media, in prompt order.

        And second, row and column of each, int64 `[N, 3]`; of sound only the second.
        """
        pictures: list[list[Tensor]] = []
        if batch.pictures is not None:
            _, _, h, w, _ = batch.pictures.shape
            rows, _ = nets.vision(
                self.thinker.visual, senses.patches(batch.pictures.to(DEVICE)), (h // senses.SIDE, w // senses.SIDE)
            )
            left = list(rows.split([g for gs in batch.grids for g in gs]))
            for grids in batch.grids:
                pictures.append([left.pop(0).flatten(0, 1) for _ in grids])
        heard: list[Tensor] = []
        if batch.heard:
            heard, _, _ = nets.audio(self.thinker.audio_tower, [h.mel.to(DEVICE) for h in batch.heard])
        out, places, first = [], [], [0]
        high, wide = (side // senses.CELL for side in (batch.pictures.shape[2:4] if batch.pictures is not None else (0, 0)))
        for count in batch.sounds:
            first.append(first[-1] + count)
        for row, run in batch.runs:
            whole = heard[first[row] + run.index] if run.is_sound else pictures[row][run.index]
            out.append(whole[run.first : run.last])
            at = torch.arange(run.first, run.last)
            none = torch.full_like(at, -100)
            if run.is_sound:
                places.append(torch.stack(((at // 25).clamp(max=MOST["second"] - 1), none, none), 1))
            else:
                places.append(torch.stack((at // (high * wide), at // wide % high, at % wide), 1))
        return out, torch.cat(places) if places else torch.empty(0, 3)

    def forward(self, batch: lessons.Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[N, V]` at the places where the assistant speaks, the truth `[N]`, and the loss of the rows' places."""
        thinker = self.thinker
        with torch.autocast(DEVICE, torch.bfloat16):
            features, places = self.features(batch)
            ids = batch.ids.to(DEVICE)
            rows = thinker.embed_tokens(ids)
            media = thinker.config.media
            is_media = (ids == media.audio) | (ids == media.image) | (ids == media.video)
            if features:
                rows = rows.masked_scatter(is_media[..., None], torch.cat(features).to(rows.dtype))
            hidden, early = nets.decode(thinker.decoder, rows, batch.positions.to(DEVICE), PLACED_BY)
            wanted = batch.targets >= 0
            logits = F.linear(hidden[wanted] / LOUDNESS, thinker.lm_head.weight)
            placed = logits.new_zeros(())
            if features:
                told = nets.norm(early[is_media], early.new_ones(early.shape[-1]))
                for head, truth in zip(self.places.values(), places.to(DEVICE).unbind(1), strict=True):
                    if (truth >= 0).any():
                        placed = placed + F.cross_entropy(head(told).float(), truth)
        return logits.float(), batch.targets[wanted].to(DEVICE), placed


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
    return kind, lessons.collate(made)


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
        logits, truth, placed = student(batch)
        loss = F.cross_entropy(logits, truth)
        trainer.learn(loss + PLACED * placed)
        losses["placed"].append(placed.item())
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
