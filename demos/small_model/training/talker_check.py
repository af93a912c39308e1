"""Lets omni's own talker speak held-out sentences by itself, and says how well it keeps to the text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from demos.small_model.files import log, save
from demos.small_model.nets.sizes import omni_config
from demos.small_model.nets.talker import END, END_COUNTER, SHARPER, TalkerNet
from demos.small_model.nets.words import special, tokenizer
from demos.small_model.speech.codec import CLUSTERS, COUNTER, PATH, Codec, cluster_of, code_ids
from demos.small_model.speech.corpus import VOICES
from demos.small_model.training.talker_data import Reader, Sample, prompt_ids
from demos.small_model.training.trainer import DEVICE
from omni.engine.block_manager import CachedSequence
from omni.engine.runner import ModelRunner
from omni.evaluation.recogniser import edits
from omni.kernels.sampling import Sampling
from omni.models.decoder import STACKS, Decoder
from omni.talker.dual_track import RELEASED, DualTrack
from omni.talker.voices import Voice

PATIENCE = 1.6
"""How many times the true length an utterance may take."""


def runtime_talker(weights: dict[str, Tensor]) -> DualTrack:
    """omni's own, with published weights."""
    config = omni_config()
    assert config.talker and config.talker_decoder and config.dit
    talker = DualTrack(config.talker, Decoder(config.talker_decoder), config.dit.num_codes + 1).eval().requires_grad_(False)
    state = {}
    for name, w in weights.items():
        state[name.replace("model.embed_tokens", "embed_tokens").replace("model.", "decoder.")] = w
    for stack, parts in STACKS.items():
        for name in [n for n in state if f".{parts[0]}." in n]:
            state[name.replace(parts[0], stack)] = torch.cat([state.pop(name.replace(parts[0], part)) for part in parts])
    talker.load_state_dict(state)
    return talker


@torch.no_grad()
def speak(talker: DualTrack, read: Reader, samples: Sequence[Sample], sampling: Sampling) -> list[tuple[list[int], bool]]:
    """Codec ids of each sample's text without its codes, and whether they ended before PATIENCE did."""
    assert isinstance(talker.decoder, Decoder)
    rng = Random(0)
    most = [int(PATIENCE * len(s.clusters)) for s in samples]
    runner = ModelRunner(talker.decoder, sum(most) + 400 * len(samples))
    caches = [CachedSequence() for _ in samples]
    states, rows = [], []
    for i, s in enumerate(samples):
        _, *words = read.text([s], len(s.text) + 2)[0]
        state = talker.start(Voice("", s.voice, torch.empty(0), torch.empty(0)), read.table, sampling, seed=i)
        state.thoughts.extend(words[:-1])
        state.text_ended = True
        states.append(state)
        heard = talker.thinker_to_talker_proj(read.prompt(prompt_ids(rng)))
        rows.append(torch.cat((heard, *talker.step_rows([state]))))
    stopped = [False] * len(samples)
    going = list(range(len(samples)))
    while going:
        positions = [torch.arange(len(rows[i])).expand(3, -1) + caches[i].length for i in going]
        hidden = runner.advance([caches[i] for i in going], [rows[i] for i in going], positions)
        frames = talker.pick([states[i] for i in going], torch.stack([h[-1] for h in hidden]))
        for i, frame in zip(going, frames, strict=True):
            stopped[i] = frame is None
        going = [i for i in going if not stopped[i] and len(states[i].frames) < most[i]]
        if going:
            for i, row in zip(going, talker.step_rows([states[i] for i in going]), strict=True):
                rows[i] = row
    return [([code for (code,) in state.frames], end) for state, end in zip(states, stopped, strict=True)]


def visited(counters: Sequence[int]) -> list[int]:
    """Counters without repetitions in a row."""
    return [c for i, c in enumerate(counters) if i == 0 or c != counters[i - 1]]


def mel_of(clusters: Tensor, voice: str, codec: Codec) -> Tensor:
    """Natural-log mel `[2 L, 80]` of the clusters' centroids."""
    frames = (codec["centroids"][clusters, :-1] / codec["weights"].repeat(2)).view(-1, 80)
    return frames * codec["sd"][voice] + codec["mean"][voice]


def check(weights: dict[str, Tensor], net: TalkerNet, read_rows: Reader, samples: Sequence[Sample], path: Path) -> None:
    """Let omni's talker speak by itself and compare the units it visits with the true ones.

    What it said is left at `path`.
    """
    began = time.time()
    talker = runtime_talker(weights)
    voice_of = {special(voice): voice for voice in VOICES}
    codec: Codec = torch.load(PATH, weights_only=True)
    kept = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, sampling in (("greedy", Sampling()), ("drawn", RELEASED)):
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
    save(kept, path)
    rows = f"logits differ by {difference:.1e}, unused ids in the top 40 of {strange:.2%} of the rows"
    log(f"talker check {time.time() - began:.0f} s: {rows}")


@torch.no_grad()
def compare(talker: DualTrack, net: TalkerNet, read_rows: Reader, samples: Sequence[Sample]) -> tuple[float, float]:
    """Largest difference between omni's logits and those trained, and the share of rows with an unused id in the top 40."""
    assert isinstance(talker.decoder, Decoder)
    config = talker.config
    batch = read_rows.batch(samples, prompt_ids(Random(1)), faults=False)
    hidden = net(batch.to(DEVICE))[0]
    runner = ModelRunner(talker.decoder, 4096)
    difference, strange, total = 0.0, 0, 0
    for i, s in enumerate(samples):
        n = len(s.clusters)
        opening = torch.tensor([config.codec_pad_id, config.codec_start_id])
        ids = torch.cat((opening, code_ids(s.clusters, s.units)))
        rows = torch.cat((batch.prompt, batch.text[i, : n + 2] + talker.embed_tokens(ids)))
        positions = torch.arange(len(rows)).expand(3, -1)
        logits = talker.logits(
            runner.advance([CachedSequence()], [talker.thinker_to_talker_proj(rows)], [positions])[0][len(batch.prompt) :]
        )
        clusters, counters = (SHARPER * F.linear(hidden[i, : n + 2], w).cpu() for w in (net.cluster_out, net.counter_out))
        joint = (clusters[:, :CLUSTERS, None] + counters[:, None, :COUNTER]).flatten(1)
        difference = max(difference, float((joint - logits[:, 1 : 1 + CLUSTERS * COUNTER]).abs().max()))
        end = clusters[:, END] + counters[:, END_COUNTER]
        difference = max(difference, float((end - logits[:, config.codec_end_id]).abs().max()))
        top = logits[1:].topk(40).indices
        used = ((top >= 1) & (top <= CLUSTERS * COUNTER)) | (top == config.codec_end_id)
        strange, total = strange + int((~used).any(1).sum()), total + len(top)
    return difference, strange / total
