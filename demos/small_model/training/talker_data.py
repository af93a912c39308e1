"""What the talker learns from: utterances with their codes, cut, joined and shaken, as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from demos.small_model.files import log
from demos.small_model.nets.embedding import text_table
from demos.small_model.nets.talker import END, END_COUNTER, IGNORED, NO_COUNTER, PACES, PAD, START, Batch
from demos.small_model.nets.words import SYSTEM, encode, special
from demos.small_model.speech.codec import CLUSTERS, COUNTER, PATH, Codec, neighbours
from demos.small_model.speech.corpus import HELD, VOICES, Utterance, load, shard_paths
from demos.small_model.training.thinker import LOUDNESS
from demos.small_model.world.questions import any_turn
from omni.families.qwen2_5_omni import SPEAKING

ROWS, MOST = 1600, 40
"""Rows of a batch, prompt aside, and the most utterances in it."""
FEW_UNITS, TIMES = 3, 3
"""Utterances this short come this many times as often as others."""
JOINED = (1, 1, 1, 2, 2, 3)
"""How many utterances are spoken in a row."""
JUMP = 3
"""Most codes that a sample gains or loses at a place."""
WRONG_CLUSTER, WRONG_COUNTER, NEAR = 0.15, 0.03, 8
"""Shares of codes that are read wrongly; half of the wrong clusters are among the NEAR nearest."""
UNASKED = 0.25
"""Share of the prompts without a user's turn, as `omni say` has them."""
SPOKEN = 20
"""Held-out utterances that are spoken alone."""


@dataclass(frozen=True)
class Sample:
    """One utterance: thinker ids `[n]` of its units, cluster and unit `[L]` of each code; all int64."""

    text: Tensor
    voice: int
    clusters: Tensor
    units: Tensor


def read(utterance: Utterance) -> Sample | None:
    """None where a unit is not one token."""
    ids = [encode(unit) for unit, _, _ in utterance["units"]]
    if any(len(i) != 1 for i in ids):
        return None
    text = torch.tensor([i for (i,) in ids])
    return Sample(text, special(utterance["voice"]), utterance["clusters"].long(), utterance["unit"].long())


class Corpus:
    """The samples of the shards that have codes, shortest first; `look` again takes in new ones."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._seen: set[str] = set()
        self.look()

    def look(self) -> None:
        for path in (path for voice in VOICES for path in shard_paths(voice)):
            if path.name in self._seen or not path.exists() or "clusters" not in (shard := load(path))[0]:
                continue
            self._seen.add(path.name)
            samples = [s for s in map(read, shard) if s]
            if len(samples) < len(shard):
                log(f"talker: {path.stem}: {len(shard) - len(samples)} utterances skipped, a unit is not one token")
            self.samples += [s for s in samples for _ in range(TIMES if len(s.text) <= FEW_UNITS else 1)]
        self.samples.sort(key=lambda s: len(s.clusters))

    def draw(self, rng: Random) -> list[Sample]:
        """Some of about equal length, each of one utterance or more."""
        at, many = rng.randrange(len(self.samples)), rng.choice(JOINED)
        count = max(1, min(MOST, ROWS // (many * len(self.samples[at].clusters) + 2)))
        width = 4 * many * count
        first = min(max(0, at - width // 2), len(self.samples) - width)
        near = self.samples[first : first + width]
        if many == 1:
            return rng.sample(near, count)
        by_voice = [own for voice in VOICES if len(own := [s for s in near if s.voice == special(voice)]) >= many]
        return [joined(rng.sample(rng.choice(by_voice), many)) for _ in range(count)]


def joined(samples: Sequence[Sample]) -> Sample:
    """Utterances of one voice, one after the other."""
    units, so_far = [], 0
    for s in samples:
        units.append(s.units + so_far)
        so_far += len(s.text)
    return Sample(
        torch.cat([s.text for s in samples]), samples[0].voice, torch.cat([s.clusters for s in samples]), torch.cat(units)
    )


def cut(sample: Sample, rng: Random) -> Sample:
    """The end of an utterance, from some unit on, after the silence that it began with."""
    first = rng.randrange(1, len(sample.text))
    codes = torch.cat((torch.arange(3), (sample.units >= first).nonzero()[:, 0]))
    return Sample(sample.text[first:], sample.voice, sample.clusters[codes], (sample.units[codes] - first).clamp(min=0))


def jitter(sample: Sample, rng: Random) -> Sample:
    """The utterance with a few codes more or fewer where a unit ends."""
    ends = sample.units.diff().nonzero()[:, 0].tolist()
    if not ends:
        return sample
    end, many = rng.choice(ends), rng.randint(1, JUMP)
    codes = list(range(len(sample.clusters)))
    if rng.random() < 0.5:
        codes[end:end] = [end] * many
    else:
        own = int((sample.units == sample.units[end]).sum())
        del codes[end + 1 - min(many, own - 1) : end + 1]
    picked = torch.tensor(codes)
    return Sample(sample.text, sample.voice, sample.clusters[picked], sample.units[picked])


def prompt_ids(rng: Random) -> Tensor:
    """A question as the thinker reads it, int64 `[P]`, with rows of sound or picture in some; in some none was asked."""
    system = SPEAKING if rng.random() < 0.7 else SYSTEM
    if rng.random() < UNASKED:
        return torch.tensor(encode(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>assistant\n"))
    media = ""
    if rng.random() < 0.35:
        sign, begin, end = rng.choice((("AUDIO", "audio_bos", "audio_eos"), ("IMAGE", "vision_bos", "vision_eos")))
        media = f"<|{begin}|>" + f"<|{sign}|>" * rng.randint(20, 120) + f"<|{end}|>"
    asked = "" if media and rng.random() < 0.3 else any_turn(rng).question
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{media}{asked}<|im_end|>\n<|im_start|>assistant\n"
    return torch.tensor(encode(turns))


class Reader:
    """Turns samples into batches.

    Args:
        table: the thinker's embedding `[vocab, E]`.
        near: `[CLUSTERS, NEAR]`, the nearest other clusters.
        phones: `[CLUSTERS]`, whose clusters they are.
    """

    def __init__(self, table: Tensor, near: Tensor, phones: Tensor) -> None:
        self.table, self.near, self.phones = table, near, phones
        self.media = torch.tensor([special("<|AUDIO|>"), special("<|IMAGE|>")])
        self.end, self.pad = special("tts_end"), special("tts_pad")

    def thoughts(self, *shape: int) -> Tensor:
        """What stands for the thinker's hidden rows, `[*shape, E]`: noise and a direction, both of an RMS near LOUDNESS."""
        scale = LOUDNESS * torch.empty(*shape[:-1], 1, 1).uniform_(0.5, 2)
        width = self.table.shape[1]
        return scale * torch.randn(*shape, width) + LOUDNESS * torch.randn(*shape[:-1], 1, width)

    def prompt(self, ids: Tensor) -> Tensor:
        """Thinker rows `[P, E]`."""
        return self.table[ids].masked_fill(torch.isin(ids, self.media)[:, None], 0) + self.thoughts(len(ids))

    def text(self, samples: Sequence[Sample], num_rows: int) -> Tensor:
        """Thinker rows `[B, num_rows, E]`: who speaks, the units, the end, and padding."""
        ids = torch.full((len(samples), num_rows), self.pad)
        spoken = torch.zeros(len(samples), num_rows, 1)
        for i, s in enumerate(samples):
            n = len(s.text)
            ids[i, 0], ids[i, 1 : 1 + n], ids[i, 1 + n] = s.voice, s.text, self.end
            spoken[i, 1 : 1 + n] = 1
        return self.table[ids] + spoken * self.thoughts(*ids.shape)

    def batch(self, samples: Sequence[Sample], prompt: Tensor, *, faults: bool) -> Batch:
        """Args:
        prompt: thinker ids `[P]`.
        faults: whether some codes are read wrongly; what is to be predicted is always right.
        """
        b, t = len(samples), max(len(s.clusters) for s in samples) + 2
        cluster, counter = torch.full((b, t), PAD), torch.full((b, t), NO_COUNTER)
        cluster[:, 1] = START
        next_cluster, next_counter, index = (torch.full((b, t), IGNORED) for _ in range(3))
        looks, paces = (torch.full((b, 2, t), IGNORED) for _ in range(2))
        for i, s in enumerate(samples):
            n, codes = len(s.text), len(s.clusters)
            cluster[i, 2 : 2 + codes], counter[i, 2 : 2 + codes] = s.clusters, s.units % COUNTER
            next_cluster[i, 1 : 1 + codes], next_cluster[i, 1 + codes] = s.clusters, END
            next_counter[i, 1 : 1 + codes], next_counter[i, 1 + codes] = s.units % COUNTER, END_COUNTER
            index[i, 1 : 2 + n] = torch.arange(n + 1) % COUNTER
            looks[i, 0, 1 : 1 + codes], looks[i, 0, 1 + codes] = s.units + 1, n + 1
            looks[i, 1, 1 : 1 + codes] = s.units + 2
            _, unit, counts = s.units.unique_consecutive(return_inverse=True, return_counts=True)
            ends = counts.cumsum(0)
            passed = torch.arange(codes) - (ends - counts)[unit]
            paces[i, :, 1 : 1 + codes] = torch.stack((passed, counts[unit] - 1 - passed)).clamp(max=PACES - 1)
        looks[looks > torch.arange(t)] = IGNORED  # not there yet
        if faults:
            code = cluster < CLUSTERS
            wrong = code & (torch.rand(b, t) < WRONG_CLUSTER)
            near = self.near[cluster.clamp(max=CLUSTERS - 1), torch.randint(NEAR, (b, t))]
            other = torch.where(torch.rand(b, t) < 0.5, near, torch.randint(CLUSTERS, (b, t)))
            cluster = torch.where(wrong, other, cluster)
            wrong = code & (torch.rand(b, t) < WRONG_COUNTER)
            counter = torch.where(wrong, (counter + torch.randint(2, (b, t)) * 2 - 1) % COUNTER, counter)
        rows = self.prompt(prompt), self.text(samples, t)
        return Batch(*rows, cluster, counter, next_cluster, next_counter, looks, index, paces, self.phones)


def reader() -> Reader:
    codec: Codec = torch.load(PATH, weights_only=True)
    return Reader(text_table(), neighbours(codec, NEAR), codec["phones"])


def held_out() -> list[Sample]:
    """Utterances that no shard holds, both voices by turns; then the same in threes."""
    known = [s for u in load(HELD) if "clusters" in u and (s := read(u))]
    by_voice = [[s for s in known if s.voice == special(voice)] for voice in VOICES]
    alone = [s for pair in zip(*by_voice, strict=False) for s in pair][:SPOKEN]
    return alone + [joined(own[i : i + 3]) for i in range(0, 9, 3) for own in by_voice]
