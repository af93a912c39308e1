"""What every training program needs: an optimiser on a clock, an average of the weights, a state that survives a stop."""

from __future__ import annotations

import copy
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from demos.small_model.files import save

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
"""Which of how many processes this is, when torchrun started several; each makes its own batches."""
LOG_STEPS, SAVE_MINUTES, CHECK_MINUTES = 200, 2.0, 5.0
INNER = re.compile(r"(layers|blocks)\.\d+\.")


class Trainer:
    """Muon for the matrices of layers and AdamW for the rest, at a rate that falls to nothing over `minutes` of work.

    The work may be interrupted at any time.

    Attributes:
        network: learns; `average` is the moving average of its weights.
        step: optimiser steps done.
    """

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        minutes: float,
        rate: float,
        *,
        warm_up: int = 200,
        decay: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.98),
        clip: float = 1.0,
        keep: float = 0.998,
        inner: float = 1.0,
    ) -> None:
        """Args:
        path: of the state, from which an earlier run goes on.
        clip: largest norm of the gradient.
        keep: part of the average that stays at each step.
        inner: how many times faster the matrices of layers learn.
        """
        if WORLD > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        network.to(DEVICE)
        self.network, self.path, self.minutes, self.warm_up = network, path, minutes, warm_up
        self.clip, self.keep = clip, keep
        self.average = copy.deepcopy(network).requires_grad_(False)
        learnt = {name: p for name, p in network.named_parameters() if p.requires_grad}
        within = [p for name, p in learnt.items() if p.ndim == 2 and INNER.search(name)]
        matrices = {id(p) for p in within}
        outer = [p for p in learnt.values() if id(p) not in matrices]
        groups = [
            {"params": [p for p in outer if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=betas)]
        if within:
            muon = torch.optim.Muon(within, lr=inner * rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self.optimisers.append(muon)
        self._rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.step, self._before, self._start, self._saved = 0, 0.0, time.process_time(), time.time()
        self._clock = 0.0
        if path.exists():
            state = torch.load(path, map_location=DEVICE, weights_only=False)
            network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=bool(state["optimisers"])):
                optimiser.load_state_dict(kept)
            self.step, self._before = state["step"], state["elapsed"]
            self._clock = self._before

    @property
    def elapsed(self) -> float:
        """Minutes of a core's work so far, the same in all processes; while others have the core, no time passes."""
        return self._clock if WORLD > 1 else self._before + (time.process_time() - self._start) / 60

    @property
    def done(self) -> bool:
        return self.elapsed >= self.minutes

    def learn(self, loss: Tensor) -> None:
        """One step down."""
        progress = min(1.0, self.elapsed / self.minutes)
        part = min(1.0, (self.step + 1) / self.warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for optimiser, rates in zip(self.optimisers, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * part
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        if WORLD > 1:
            self._share()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        keep = min(self.keep, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)

    def _share(self) -> None:
        """Mean gradients of all processes, and the clock of the first."""
        learnt = [p for p in self.network.parameters() if p.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in learnt])
        dist.all_reduce(used, dist.ReduceOp.MAX)
        shared = [p for p, some in zip(learnt, used.tolist(), strict=True) if some]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in shared])
        dist.all_reduce(flat)
        for p, grad in zip(shared, (flat / WORLD).split([p.numel() for p in shared]), strict=True):
            p.grad = grad.view_as(p)
        clock = torch.tensor(self._before + (time.process_time() - self._start) / 60, dtype=torch.float64)
        dist.broadcast(clock, 0)
        self._clock = float(clock)

    def save(self, every: float = 0.0) -> bool:
        """Keep the state, if the last time is at least `every` minutes ago; whether it was kept."""
        if RANK or time.time() - self._saved < 60 * every:
            return False
        self._saved = time.time()
        state: Mapping[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "elapsed": self.elapsed,
        }
        save(state, self.path)
        return True


class Means:
    """Running means of named figures, printed and forgotten."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)

    def take(self) -> str:
        line = " ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in self._sums.items())
        self._sums.clear()
        return line


def run(
    trainer: Trainer,
    name: str,
    lesson: Callable[[], dict[str, float]],
    *,
    check: Callable[[], str],
    keep: Callable[[], None],
) -> None:
    """Lessons until the time is over, each of which gives figures whose means are printed.

    Every few minutes what was learnt is kept with the state, and checked.
    """
    means, checked, since = Means(), trainer.elapsed, time.time()
    while not trainer.done:
        means.add(**lesson())
        if trainer.step % LOG_STEPS == 0:
            speed = LOG_STEPS / (time.time() - since)
            print(f"{name} {trainer.step} {trainer.elapsed:.1f} min, {means.take()}, {speed:.2f} steps/s", flush=True)
            since = time.time()
        if trainer.save(every=SAVE_MINUTES):
            keep()
        if trainer.elapsed >= checked + CHECK_MINUTES:
            print(f"{check()} at {trainer.elapsed:.1f} min", flush=True)
            checked, since = trainer.elapsed, time.time()
    trainer.save()
    keep()
