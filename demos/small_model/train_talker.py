"""Trains the talker: rows of text in, speech codes out.

    python -m demos.small_model.train_talker [--minutes N]

The thinker is not needed: a row of text is its fixed embedding plus a little of the thinker's thought, for which noise
stands here. Goes on from `talker.state.pt`. Every few minutes it writes `talker.safetensors` and lets omni's own talker
speak held-out sentences by itself; what it said is in `talker_check.pt`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.codec import CLUSTERS, COUNTER, PATH, Codec, cluster_of, code_ids
from demos.small_model.corpus import HELD, VOICES, Utterance, load, shard_paths
from demos.small_model.files import export, log, save
from demos.small_model.shape import omni_config
from demos.small_model.table import text_table
from demos.small_model.talker_net import END, END_COUNTER, IGNORED, NO_COUNTER, PAD, START, Batch, TalkerNet
from demos.small_model.trainer import DEVICE, Means, Trainer
from demos.small_model.words import SYSTEM, encode, special, tokenizer
from demos.small_model.world import any_turn
from omni.cache import CachedSequence
from omni.decoder import STACKS, Decoder
from omni.engine.batch import Lane
from omni.engine.options import VOICE_SAMPLING
from omni.prompt import SPEAKING
from omni.sampler import Sampler, Sampling
from omni.talker.dual_track import Talker, TextEnd

STATE, WEIGHTS, CHECK = BUILD / "talker.state.pt", BUILD / "talker.safetensors", BUILD / "talker_check.pt"
ROWS, MOST = 1600, 40
"""Rows of a batch, prompt aside, and the most utterances in it."""
RATE, WARM_UP, DECAY, AVERAGE = 1.5e-3, 150, 0.05, 0.999
FEW_UNITS, TIMES = 3, 3
"""Utterances this short come this many times as often as others."""
JOINED = (1, 1, 1, 2, 2, 3)
"""How many utterances are spoken in a row."""
CUT, JITTER, JUMP = 0.08, 0.3, 3
"""Shares of utterances that lose their first words, and whose codes are some more or fewer (at most JUMP) at one place."""
WRONG_CLUSTER, WRONG_COUNTER, NEAR = 0.15, 0.03, 8
"""Shares of codes that are read wrongly; half of the wrong clusters are among the NEAR nearest."""
THOUGHT = 0.1
"""RMS of the thinker's last hidden state."""
LOOKS, INDEX, LEVEL = (0.3, 0.05), 0.1, 3e-3
"""Weights of the losses beside the codes' own; the first falls to its second value by half time."""
LOG_STEPS, EXPORT_MINUTES = 100, 5.0
SPOKEN, PATIENCE = 20, 1.6
"""Held-out utterances that are spoken alone, and how many times the true length each may take."""


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
    """A question as the thinker reads it, int64 `[P]`, with rows of sound or picture in some."""
    system = SPEAKING if rng.random() < 0.7 else SYSTEM
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
    """

    def __init__(self, table: Tensor, near: Tensor) -> None:
        self.table, self.near = table, near
        self.media = torch.tensor([special("<|AUDIO|>"), special("<|IMAGE|>")])
        self.end, self.pad = special("tts_end"), special("tts_pad")

    def thoughts(self, *shape: int) -> Tensor:
        """What stands for the thinker's hidden rows, `[*shape, E]`: noise and a direction, both of an RMS near THOUGHT."""
        scale = THOUGHT * torch.empty(*shape[:-1], 1, 1).uniform_(0.5, 2)
        width = self.table.shape[1]
        return scale * torch.randn(*shape, width) + THOUGHT * torch.randn(*shape[:-1], 1, width)

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
        looks = torch.full((b, 2, t), IGNORED)
        for i, s in enumerate(samples):
            n, codes = len(s.text), len(s.clusters)
            cluster[i, 2 : 2 + codes], counter[i, 2 : 2 + codes] = s.clusters, s.units % COUNTER
            next_cluster[i, 1 : 1 + codes], next_cluster[i, 1 + codes] = s.clusters, END
            next_counter[i, 1 : 1 + codes], next_counter[i, 1 + codes] = s.units % COUNTER, END_COUNTER
            index[i, 1 : 2 + n] = torch.arange(n + 1) % COUNTER
            looks[i, 0, 1 : 1 + codes], looks[i, 0, 1 + codes] = s.units + 1, n + 1
            looks[i, 1, 1 : 1 + codes] = s.units + 2
        looks[looks > torch.arange(t)] = IGNORED  # not there yet
        if faults:
            code = cluster < CLUSTERS
            wrong = code & (torch.rand(b, t) < WRONG_CLUSTER)
            near = self.near[cluster.clamp(max=CLUSTERS - 1), torch.randint(NEAR, (b, t))]
            other = torch.where(torch.rand(b, t) < 0.5, near, torch.randint(CLUSTERS, (b, t)))
            cluster = torch.where(wrong, other, cluster)
            wrong = code & (torch.rand(b, t) < WRONG_COUNTER)
            counter = torch.where(wrong, (counter + torch.randint(2, (b, t)) * 2 - 1) % COUNTER, counter)
        return Batch(self.prompt(prompt), self.text(samples, t), cluster, counter, next_cluster, next_counter, looks, index)


def reader() -> Reader:
    codec: Codec = torch.load(PATH, weights_only=True)
    apart = torch.cdist(codec["centroids"], codec["centroids"])
    return Reader(text_table(), apart.topk(NEAR + 1, largest=False).indices[:, 1:])


def held_out() -> list[Sample]:
    """Utterances that no shard holds, both voices by turns; then the same in threes."""
    known = [s for u in load(HELD) if "clusters" in u and (s := read(u))]
    by_voice = [[s for s in known if s.voice == special(voice)] for voice in VOICES]
    alone = [s for pair in zip(*by_voice, strict=False) for s in pair][:SPOKEN]
    return alone + [joined(own[i : i + 3]) for i in range(0, 9, 3) for own in by_voice]


# ---------------------------------------------------------------- speaking by itself


def runtime_talker(weights: dict[str, Tensor]) -> Talker:
    """omni's own, with published weights."""
    config = omni_config()
    assert config.talker and config.talker_decoder
    talker = Talker(config.talker, Decoder(config.talker_decoder)).eval().requires_grad_(False)
    state = {}
    for name, w in weights.items():
        state[name.replace("model.embed_tokens", "embed_tokens").replace("model.", "decoder.")] = w
    for stack, parts in STACKS.items():
        for name in [n for n in state if f".{parts[0]}." in n]:
            state[name.replace(parts[0], stack)] = torch.cat([state.pop(name.replace(parts[0], part)) for part in parts])
    talker.load_state_dict(state)
    return talker


@torch.no_grad()
def speak(talker: Talker, read: Reader, samples: Sequence[Sample], sampling: Sampling) -> list[tuple[list[int], bool]]:
    """Codec ids of each sample's text without its codes, and whether they ended before PATIENCE did."""
    assert isinstance(talker.decoder, Decoder)
    config, rng = talker.config, Random(0)
    most = [int(PATIENCE * len(s.clusters)) for s in samples]
    lane = Lane(talker.decoder, sum(most) + 400 * len(samples))
    caches = [CachedSequence() for _ in samples]
    states, rows = [], []
    for s in samples:
        voice, *words = read.text([s], len(s.text) + 2)[0]
        state = talker.start(TextEnd(read.table[read.end], read.table[read.pad]))
        state.rows.extend(words[1:-1])
        state.text_ended = True
        states.append(state)
        heard = talker.thinker_to_talker_proj(read.prompt(prompt_ids(rng)))
        rows.append(torch.cat((heard, talker.opening_rows(voice, words[0]))))
    samplers = [
        Sampler(
            sampling, config.vocab_size, seed=i, device=torch.device("cpu"), suppress=(config.codec_start_id,), valid=8194,
            seen=(config.codec_mask_id, config.codec_pad_id, config.codec_start_id), stops=config.stop_ids,
        )
        for i in range(len(samples))
    ]  # fmt: skip
    said: list[list[int]] = [[] for _ in samples]
    stopped = [False] * len(samples)
    going = list(range(len(samples)))
    while going:
        positions = [torch.arange(len(rows[i])).expand(3, -1) + caches[i].length for i in going]
        hidden = lane.advance([caches[i] for i in going], [rows[i] for i in going], positions)
        logits = talker.logits(torch.stack([h[-1] for h in hidden]))
        for i, scores in zip(going, logits, strict=True):
            code = samplers[i].pick(scores)
            stopped[i] = int(code) in config.stop_ids
            states[i].code = code
            if not stopped[i]:
                said[i].append(int(code))
        going = [i for i in going if not stopped[i] and len(said[i]) < most[i]]
        if going:
            for i, row in zip(going, talker.step_rows([states[i] for i in going]), strict=True):
                rows[i] = row[None]
    return list(zip(said, stopped, strict=True))


def visited(counters: Sequence[int]) -> list[int]:
    """Counters without repetitions in a row."""
    return [c for i, c in enumerate(counters) if i == 0 or c != counters[i - 1]]


def edits(a: Sequence[int], b: Sequence[int]) -> int:
    """Edit distance (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (x != y))
    return row[-1]


def mel_of(clusters: Tensor, voice: str, codec: Codec) -> Tensor:
    """Natural-log mel `[2 L, 80]` of the clusters' centroids."""
    frames = (codec["centroids"][clusters] / codec["weights"].repeat(2)).view(-1, 80)
    return frames * codec["sd"][voice] + codec["mean"][voice]


def check(weights: dict[str, Tensor], net: TalkerNet, read_rows: Reader, samples: Sequence[Sample]) -> None:
    """Let omni's talker speak by itself and compare the units it visits with the true ones."""
    began = time.time()
    talker = runtime_talker(weights)
    voice_of = {special(voice): voice for voice in VOICES}
    codec: Codec = torch.load(PATH, weights_only=True)
    kept = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, sampling in (("greedy", Sampling()), ("drawn", VOICE_SAMPLING)):
            wrong, units, lengths, stops, strangers = 0, 0, 0.0, 0, 0
            for s, (ids, stopped) in zip(samples, speak(talker, read_rows, samples, sampling), strict=True):
                codes = torch.tensor([i for i in ids if 1 <= i <= CLUSTERS * COUNTER])
                way, truth = visited(((codes - 1) % COUNTER).tolist()), visited((s.units % COUNTER).tolist())
                wrong, units = wrong + edits(way, truth), units + len(truth)
                lengths, stops = lengths + len(ids) / len(s.units), stops + stopped
                strangers += len(ids) - len(codes)
                voice, text = voice_of[s.voice], tokenizer().decode(s.text.tolist())
                mel = mel_of(cluster_of(codes), voice, codec) if len(codes) else torch.empty(0, 80)
                kept.append({"how": name, "text": text, "voice": voice, "codes": codes, "mel": mel})
            log(
                f"talker {name}: {stops}/{len(samples)} stop, units {wrong / units:.3f} wrong, "
                f"length ratio {lengths / len(samples):.2f}, {strangers} ids that are no code"
            )
        difference, strange = compare(talker, net, read_rows, samples[:4])
    save(kept, CHECK)
    rows = f"logits differ by {difference:.1e}, unused ids in the top 40 of {strange:.2%} of the rows"
    log(f"talker check {time.time() - began:.0f} s: {rows}")


@torch.no_grad()
def compare(talker: Talker, net: TalkerNet, read_rows: Reader, samples: Sequence[Sample]) -> tuple[float, float]:
    """Largest difference between omni's logits and those trained, and the share of rows with an unused id in the top 40."""
    assert isinstance(talker.decoder, Decoder)
    config = talker.config
    batch = read_rows.batch(samples, prompt_ids(Random(1)), faults=False)
    hidden = net(batch.to(DEVICE))[0]
    lane = Lane(talker.decoder, 4096)
    difference, strange, total = 0.0, 0, 0
    for i, s in enumerate(samples):
        n = len(s.clusters)
        opening = torch.tensor([config.codec_pad_id, config.codec_start_id])
        ids = torch.cat((opening, code_ids(s.clusters, s.units)))
        rows = torch.cat((batch.prompt, batch.text[i, : n + 2] + talker.embed_tokens(ids)))
        positions = torch.arange(len(rows)).expand(3, -1)
        logits = talker.logits(
            lane.advance([CachedSequence()], [talker.thinker_to_talker_proj(rows)], [positions])[0][len(batch.prompt) :]
        )
        clusters, counters = (F.linear(hidden[i, : n + 2], w).cpu() for w in (net.cluster_out, net.counter_out))
        joint = (clusters[:, :CLUSTERS, None] + counters[:, None, :COUNTER]).flatten(1)
        difference = max(difference, float((joint - logits[:, 1 : 1 + CLUSTERS * COUNTER]).abs().max()))
        end = clusters[:, END] + counters[:, END_COUNTER]
        difference = max(difference, float((end - logits[:, config.codec_end_id]).abs().max()))
        top = logits[1:].topk(40).indices
        used = ((top >= 1) & (top <= CLUSTERS * COUNTER)) | (top == config.codec_end_id)
        strange, total = strange + int((~used).any(1).sum()), total + len(top)
    return difference, strange / total


# ---------------------------------------------------------------- training


def train(minutes: float) -> None:
    config = omni_config()
    assert config.talker and config.talker_decoder
    torch.manual_seed(0)
    net = TalkerNet(config.talker, config.talker_decoder)
    trainer = Trainer(net, STATE, minutes, RATE, warm_up=WARM_UP, decay=DECAY, keep=AVERAGE)
    corpus, read_rows = Corpus(), reader()
    rng = Random(trainer.step)
    torch.manual_seed(trainer.step)
    prompts = [prompt_ids(rng) for _ in range(300)]
    spoken = held_out()
    with torch.random.fork_rng():
        held = read_rows.batch(spoken[:SPOKEN], prompts[0], faults=False).to(DEVICE)
    log(f"talker: {len(corpus.samples)} utterances, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")

    def let_speak() -> None:
        assert isinstance(trainer.average, TalkerNet)
        weights = trainer.average.published()
        export(weights, WEIGHTS)
        check(weights, trainer.average, read_rows, spoken)

    means, checked, since = Means(), trainer.elapsed, time.time()
    while not trainer.done:
        samples = [cut(s, rng) if rng.random() < CUT else s for s in corpus.draw(rng)]
        samples = [jitter(s, rng) if rng.random() < JITTER else s for s in samples]
        batch = read_rows.batch(samples, rng.choice(prompts), faults=True).to(DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            losses = net.losses(batch)
        looks = max(LOOKS[1], LOOKS[0] + (LOOKS[1] - LOOKS[0]) * 2 * trainer.elapsed / minutes)
        trainer.learn(losses.cluster + losses.counter + looks * losses.looks + INDEX * losses.index + LEVEL * losses.level)
        means.add(**{name: float(value.detach()) for name, value in vars(losses).items()})
        if trainer.step % LOG_STEPS == 0:
            speed = LOG_STEPS / (time.time() - since)
            with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
                h = net.losses(held)
            print(
                f"talker {trainer.step} {trainer.elapsed:.1f} min: {means.take()}; "
                f"held cluster {h.cluster:.3f} right {h.cluster_right:.3f} counter {h.counter:.4f} "
                f"right {h.counter_right:.4f}; {speed:.2f} steps/s",
                flush=True,
            )
            since = time.time()
        trainer.save(every=3)
        if trainer.elapsed - checked > EXPORT_MINUTES:
            let_speak()
            corpus.look()
            checked, since = trainer.elapsed, time.time()
    trainer.save()
    let_speak()


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=75.0, help="of training in all, earlier runs included")
    train(parser.parse_args().minutes)


if __name__ == "__main__":
    main()
