"""Picking the next id: penalty, suppression, temperature, top-k, top-p, draw, in transformers' order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omni.errors import OptionError


@dataclass(frozen=True)
class Sampling:
    """How to pick an id. `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 keep every id."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, want in (
            ("temperature", lambda x: 0 <= x < float("inf"), "0 or more"),
            ("top_k", lambda x: isinstance(x, int) and x >= 0, "a whole number from 0 on"),
            ("top_p", lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
            ("repetition_penalty", lambda x: 0 < x < float("inf"), "a number above 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not fits(value):
                raise OptionError(f"{name} is {value!r}; give {want}")


class Sampler:
    """Picks ids for one request, from its own random draws.

    Args:
        vocab_size: V.
        seen: ids that the repetition penalty counts from the start.
        suppress: ids never picked.
        valid: ids at or above this are never picked, but still take part in top-k and top-p, so that the other ids keep
            the odds transformers gives them; ids in `stops` stay allowed.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        *,
        seed: int,
        device: torch.device,
        seen: tuple[int, ...] = (),
        suppress: tuple[int, ...] = (),
        valid: int | None = None,
        stops: tuple[int, ...] = (),
    ) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._suppress = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._invalid = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._seen[list(seen)] = True
        self._suppress[list(suppress)] = True
        if valid is not None:
            self._invalid[valid:] = True
            self._invalid[list(stops)] = False

    def saw(self, ids: Tensor) -> None:
        """Let the repetition penalty count these ids too."""
        self._seen[ids] = True

    def pick(self, logits: Tensor) -> Tensor:
        """The next id, int64 scalar, from logits `[V]` of any float dtype."""
        scores = logits.float()
        s = self.sampling
        if s.repetition_penalty != 1:
            scores = torch.where(self._seen, penalise(scores, s.repetition_penalty), scores)
        scores = scores.masked_fill(self._suppress, -torch.inf)
        if s.temperature == 0:
            picked = scores.masked_fill(self._invalid, -torch.inf).argmax()
        else:
            kept = top_p(top_k(scores / s.temperature, s.top_k), s.top_p)
            race = torch.empty(kept.shape).exponential_(1, generator=self._generator).to(kept.device)
            # the id that wins a race of exponential clocks is a draw from the softmax; so is the winner among valid ids
            odds = kept.softmax(-1).masked_fill(self._invalid, 0) / race
            # where every id kept is invalid, the likeliest valid one stands in
            last = scores.masked_fill(self._invalid, -torch.inf).argmax()
            picked = torch.where(odds.amax() > 0, odds.argmax(), last)
        self._seen[picked] = True
        return picked


def penalise(scores: Tensor, penalty: float) -> Tensor:
    """Make scores less likely: negative ones grow, positive ones shrink by the factor (CTRL, section 4.1)."""
    return torch.where(scores < 0, scores * penalty, scores / penalty)


def top_k(scores: Tensor, k: int) -> Tensor:
    """-inf for all but the k highest scores; ties with the k-th stay."""
    if k == 0 or k >= scores.shape[-1]:
        return scores
    return scores.masked_fill(scores < scores.topk(k).values[..., -1:], -torch.inf)


def top_p(scores: Tensor, p: float) -> Tensor:
    """-inf for the least likely ids whose probabilities together are at most 1 - p; the likeliest always stays."""
    if p >= 1:
        return scores
    ascending, order = scores.sort()
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - p
    drop[..., -1] = False
    return scores.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
