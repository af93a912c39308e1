"""Speech codes: clusters of mel frames within a phone, and in every code the word that it belongs to.

    python -m demos.small_model.speech.codec

Learns the clusters from the shards that are there, unless `codec.pt` is, and adds `clusters` and `unit` to those without.
The ids say more than sound: with a count of the words and marks so far, what is to be spoken next follows from the last id.
As no cluster holds frames of two phones, a talker that draws a neighbouring code still speaks the same word.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.files import log, save
from demos.small_model.speech.corpus import HELD, VOICES, Utterance, load, shard_paths
from demos.small_model.speech.espeak import Unit
from demos.small_model.speech.synthesisers import PAUSE

PATH = BUILD / "codec.pt"
KEPT = Path(__file__).with_suffix(".safetensors")
"""The codec of the model that ships, without which no part of its voice could learn on."""
CLUSTERS, COUNTER = 480, 17
"""Ids are 1..8160; id 0 is the flow-matching model's absent code."""
STACK, CODES_PER_SECOND = 2, 50
ITERATIONS, SEEDS_FROM = 40, 50000
LOW, HIGH = -2.5, 3.0
"""Where frames are clamped, in deviations from their mean; quieter than LOW is not heard."""
LEAST = 3
"""Clusters of the rarest phone."""
PASSED = 8.0
"""What the way through a phone, from 0 to 1, weighs beside deviations of mel bins: begin and end are told apart."""


class Codec(TypedDict):
    """How frames become clusters.

    Attributes:
        centroids: `[CLUSTERS, 161]`, of weighted frame pairs and the way through their phone.
        phones: int64 `[CLUSTERS]`, the phone of each cluster, an index into `names`.
        names: of the phones.
        weights: `[80]`, of the mel bins.
        mean, sd: by voice, `[80]`.
    """

    centroids: Tensor
    phones: Tensor
    names: list[str]
    weights: Tensor
    mean: dict[str, Tensor]
    sd: dict[str, Tensor]


def keep(codec: Codec, path: Path = KEPT) -> None:
    """In float16, which moves no centroid as far as its nearest neighbour."""
    tensors = {"centroids": codec["centroids"], "weights": codec["weights"]}
    tensors |= {
        f"{part}.{voice}": values[voice]
        for part, values in (("mean", codec["mean"]), ("sd", codec["sd"]))
        for voice in VOICES
    }
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves | {"phones": codec["phones"].to(torch.uint8)}, path, {"names": " ".join(codec["names"])})


def kept(path: Path = KEPT) -> Codec:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        names = file.metadata()["names"].split()
    mean, sd = ({voice: tensors[f"{part}.{voice}"].float() for voice in VOICES} for part in ("mean", "sd"))
    return Codec(
        centroids=tensors["centroids"].float(), phones=tensors["phones"].long(), names=names,
        weights=tensors["weights"].float(), mean=mean, sd=sd,
    )  # fmt: skip


def code_ids(clusters: Tensor, units: Tensor) -> Tensor:
    """Int64 ids from clusters and unit indices of the same shape."""
    return 1 + clusters.long() * COUNTER + units.long() % COUNTER


def cluster_of(ids: Tensor) -> Tensor:
    """Clusters of ids >= 1."""
    return (ids - 1) // COUNTER


def centres(num_codes: int) -> Tensor:
    """Seconds at the middle of each code, `[num_codes]`."""
    return (torch.arange(num_codes) + 0.5) / CODES_PER_SECOND


def unit_indices(units: list[Unit], num_codes: int) -> Tensor:
    """Which unit is spoken at the centre of each code, int16 `[num_codes]`, never falling.

    A pause belongs to the unit before it, the first silence to unit 0.
    """
    starts = torch.tensor([start for _, start, _ in units])
    return (torch.searchsorted(starts, centres(num_codes), right=True) - 1).clamp(min=0).short()


def phone_indices(utterance: Utterance, names: list[str]) -> tuple[Tensor, Tensor]:
    """The phone at the centre of each code, int64 `[T / 2]`, and how much of it has passed, 0 to 1."""
    at = centres(len(utterance["mel"]) // STACK)
    phones = [*utterance["phones"], (PAUSE, float(at[-1]) + 1)]  # what is left after the last one is silent
    ends = torch.tensor([end for _, end in phones])
    index = torch.searchsorted(ends, at, right=True)
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    passed = (at - starts[index]) / (ends - starts)[index].clamp(min=1e-3)
    return torch.tensor([names.index(name) for name, _ in phones])[index], passed.clamp(0, 1)


def points(utterance: Utterance, codec: Codec) -> tuple[Tensor, Tensor]:
    """What is clustered, `[T / 2, 161]`, and the phone of each, int64 `[T / 2]`."""
    voice = utterance["voice"]
    frames = (utterance["mel"].float() - codec["mean"][voice]) / codec["sd"][voice]
    pairs = (frames.clamp(LOW, HIGH) * codec["weights"]).reshape(-1, STACK * len(codec["weights"]))
    phone, passed = phone_indices(utterance, codec["names"])
    return torch.cat((pairs, PASSED * passed[:, None]), 1), phone


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centroid, and its squared distance: `[N]` each."""
    half = centroids.square().sum(1) / 2
    best = [(part @ centroids.T - half).max(1) for part in x.split(16384)]
    index, score = torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])
    return index, (x.square().sum(1) - 2 * score).clamp(min=0)


def clusters_of(utterance: Utterance, codec: Codec) -> Tensor:
    """Of each code the nearest cluster of its phone, int64 `[T / 2]`."""
    x, phone = points(utterance, codec)
    scores = x @ codec["centroids"].T - codec["centroids"].square().sum(1) / 2
    return scores.masked_fill(codec["phones"] != phone[:, None], -torch.inf).argmax(1)


def neighbours(codec: Codec, count: int) -> Tensor:
    """Of each cluster the nearest others, those of its own phone first, int64 `[CLUSTERS, count]`."""
    apart = torch.cdist(codec["centroids"], codec["centroids"])
    apart += 2 * apart.max() * (codec["phones"][:, None] != codec["phones"])
    return apart.topk(count + 1, largest=False).indices[:, 1:]


def seeds(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points far from each other (k-means++)."""
    chosen = [x[0]]
    distance = (x - chosen[0]).square().sum(1)
    while len(chosen) < count:
        chosen.append(x[torch.multinomial(distance, 1, generator=generator)[0]])
        distance = torch.minimum(distance, (x - chosen[-1]).square().sum(1))
    return torch.stack(chosen)


def k_means(x: Tensor, count: int) -> Tensor:
    """Centroids `[count, D]` of points `[N, D]` (Lloyd)."""
    generator = torch.Generator().manual_seed(0)
    x = x[torch.randperm(len(x), generator=generator)]
    centroids = seeds(x[:SEEDS_FROM], count, generator)
    for _ in range(ITERATIONS):
        index, distance = nearest(x, centroids)
        sizes = index.bincount(minlength=count)
        centroids = torch.zeros_like(centroids).index_add_(0, index, x) / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero()[:, 0]
        centroids[empty] = x[distance.topk(len(empty)).indices]
    return centroids


def shares(spread: Tensor) -> Tensor:
    """How many of the clusters each phone gets: LEAST, and the others by the root of its squared deviation `[P]`."""
    root = spread.sqrt()
    exact = LEAST + (CLUSTERS - LEAST * len(spread)) * root / root.sum()
    whole = exact.floor()
    whole[(exact - whole).topk(CLUSTERS - int(whole.sum())).indices] += 1
    return whole.long()


def learn(utterances: list[Utterance]) -> Codec:
    weights = torch.ones(80)
    weights[55:] = 0.7  # differences above 4 kHz are heard less
    mean, sd = {}, {}
    for voice in VOICES:
        frames = torch.cat([u["mel"].float() for u in utterances if u["voice"] == voice])
        mean[voice], sd[voice] = frames.mean(0), frames.std(0)
    names = sorted({PAUSE} | {name for u in utterances for name, _ in u["phones"]})
    codec = Codec(centroids=torch.empty(0), phones=torch.empty(0), names=names, weights=weights, mean=mean, sd=sd)
    pairs = [points(u, codec) for u in utterances]
    x, phone = torch.cat([p for p, _ in pairs]), torch.cat([p for _, p in pairs])
    own = [x[phone == i] for i in range(len(names))]
    counts = shares(torch.stack([(part - part.mean(0)).square().sum() for part in own]))
    codec["centroids"] = torch.cat([k_means(part, int(n)) for part, n in zip(own, counts, strict=True)])
    codec["phones"] = torch.arange(len(names)).repeat_interleave(counts)
    rest = sum(
        float(nearest(part, c)[1].sum()) for part, c in zip(own, codec["centroids"].split(counts.tolist()), strict=True)
    )
    log(
        f"codec: {len(x)} codes, {len(names)} phones of {int(counts.min())} to {int(counts.max())} clusters, "
        f"unexplained variance {rest / float((x - x.mean(0)).square().sum()):.3f}"
    )
    return codec


def main() -> None:
    torch.set_num_threads(1)
    began = time.time()
    paths = [HELD, *(path for voice in VOICES for path in shard_paths(voice) if path.exists())]
    if not PATH.exists():
        save(learn([u for path in paths[1:] for u in load(path)]), PATH)
    codec: Codec = torch.load(PATH, weights_only=True)
    num_codes, num_changes = 0, 0
    for path in paths:
        shard = load(path)
        if "clusters" in shard[0]:
            continue
        for u in shard:
            clusters = clusters_of(u, codec)
            u["clusters"], u["unit"] = clusters.short(), unit_indices(u["units"], len(clusters))
            num_codes, num_changes = num_codes + len(clusters), num_changes + int((clusters.diff() != 0).sum())
        save(shard, path)
    changes = f", {num_changes / num_codes:.0%} differ from the one before" if num_codes else ""
    log(f"codec {(time.time() - began) / 60:.1f} min: {num_codes} codes added{changes}")


if __name__ == "__main__":
    main()
