"""Speech codes: clusters of mel frames, and in every code the word that it belongs to.

    python -m demos.small_model.codec

Learns the clusters from the shards that are there, unless `codec.pt` is, and adds `clusters` and `unit` to those without.
The ids say more than sound: with a count of the words and marks so far, what is to be spoken next follows from the last id.
"""

from __future__ import annotations

import time
from typing import TypedDict

import torch
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.corpus import HELD, VOICES, Utterance, load, shard_paths
from demos.small_model.espeak import Unit
from demos.small_model.files import log, save

PATH = BUILD / "codec.pt"
CLUSTERS, COUNTER = 480, 17
"""Ids are 1..8160; id 0 is the flow-matching model's absent code."""
STACK, CODES_PER_SECOND = 2, 50
ITERATIONS, SEEDS_FROM = 40, 50000
LOW, HIGH = -2.5, 3.0
"""Where frames are clamped, in deviations from their mean; quieter than LOW is not heard."""


class Codec(TypedDict):
    """How frames become clusters.

    Attributes:
        centroids: `[CLUSTERS, 160]`, of weighted frame pairs.
        weights: `[80]`, of the mel bins.
        mean, sd: by voice, `[80]`.
    """

    centroids: Tensor
    weights: Tensor
    mean: dict[str, Tensor]
    sd: dict[str, Tensor]


def code_ids(clusters: Tensor, units: Tensor) -> Tensor:
    """Int64 ids from clusters and unit indices of the same shape."""
    return 1 + clusters.long() * COUNTER + units.long() % COUNTER


def cluster_of(ids: Tensor) -> Tensor:
    """Clusters of ids >= 1."""
    return (ids - 1) // COUNTER


def unit_indices(units: list[Unit], num_codes: int) -> Tensor:
    """Which unit is spoken at the centre of each code, int16 `[num_codes]`, never falling.

    A pause belongs to the unit before it, the first silence to unit 0.
    """
    starts = torch.tensor([start for _, start, _ in units])
    centres = (torch.arange(num_codes) + 0.5) / CODES_PER_SECOND
    return (torch.searchsorted(starts, centres, right=True) - 1).clamp(min=0).short()


def points(utterance: Utterance, codec: Codec) -> Tensor:
    """`[T / 2, 160]`, what is clustered."""
    voice = utterance["voice"]
    frames = (utterance["mel"].float() - codec["mean"][voice]) / codec["sd"][voice]
    return (frames.clamp(LOW, HIGH) * codec["weights"]).reshape(-1, STACK * len(codec["weights"]))


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centroid, and its squared distance: `[N]` each."""
    half = centroids.square().sum(1) / 2
    best = [(part @ centroids.T - half).max(1) for part in x.split(16384)]
    index, score = torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])
    return index, (x.square().sum(1) - 2 * score).clamp(min=0)


def neighbours(codec: Codec, count: int) -> Tensor:
    """Of each cluster the nearest others, int64 `[CLUSTERS, count]`."""
    apart = torch.cdist(codec["centroids"], codec["centroids"])
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


def learn(utterances: list[Utterance]) -> Codec:
    weights = torch.ones(80)
    weights[55:] = 0.7  # differences above 4 kHz are heard less
    mean, sd = {}, {}
    for voice in VOICES:
        frames = torch.cat([u["mel"].float() for u in utterances if u["voice"] == voice])
        mean[voice], sd[voice] = frames.mean(0), frames.std(0)
    codec = Codec(centroids=torch.empty(0), weights=weights, mean=mean, sd=sd)
    x = torch.cat([points(u, codec) for u in utterances])
    codec["centroids"] = k_means(x, CLUSTERS)
    index, distance = nearest(x, codec["centroids"])
    rest = distance.sum() / (x - x.mean(0)).square().sum()
    log(f"codec: {len(x)} codes, unexplained variance {rest:.3f}, rarest cluster {index.bincount().min()} codes")
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
            clusters = nearest(points(u, codec), codec["centroids"])[0]
            u["clusters"], u["unit"] = clusters.short(), unit_indices(u["units"], len(clusters))
            num_codes, num_changes = num_codes + len(clusters), num_changes + int((clusters.diff() != 0).sum())
        save(shard, path)
    changes = f", {num_changes / num_codes:.0%} differ from the one before" if num_codes else ""
    log(f"codec {(time.time() - began) / 60:.1f} min: {num_codes} codes added{changes}")


if __name__ == "__main__":
    main()
