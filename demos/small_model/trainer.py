"""What every training program needs: an optimiser on a clock, an average of the weights, a state that survives a stop."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
"""Which of how many processes this is, when torchrun started several; each makes its own batches."""


class Trainer:
    """AdamW whose rate falls to nothing over `minutes` of work, however often the work is interrupted.

    Attributes:
        network: learns; `average` is the moving average of its weights.
        step: optimiser steps done.
    """

    def __init__(
        self, network: nn.Module, path: Path, minutes: float, rate: float, *, warm_up: int = 200, decay: float = 0.02
    ) -> None:
        if WORLD > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        network.to(DEVICE)
        self.network, self.path, self.minutes, self.rate, self.warm_up = network, path, minutes, rate, warm_up
        self.average = copy.deepcopy(network).requires_grad_(False)
        learnt = [p for p in network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.step, self._before, self._start, self._saved = 0, 0.0, time.time(), time.time()
        self._clock = 0.0
        if path.exists():
            state = torch.load(path, map_location=DEVICE, weights_only=False)
            network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self._before = state["step"], state["elapsed"]
            self._clock = self._before

    @property
    def elapsed(self) -> float:
        """Minutes of work so far, the same in all processes."""
        return self._clock if WORLD > 1 else self._before + (time.time() - self._start) / 60

    @property
    def done(self) -> bool:
        return self.elapsed >= self.minutes

    def learn(self, loss: Tensor) -> None:
        """One step down."""
        progress = min(1.0, self.elapsed / self.minutes)
        rate = self.rate * min(1.0, (self.step + 1) / self.warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if WORLD > 1:
            self._share()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(0.998, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)

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
        clock = torch.tensor(self._before + (time.time() - self._start) / 60, dtype=torch.float64)
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
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        write(state, self.path)
        return True


def write(value: object, path: Path) -> None:
    """torch.save that a stop cannot leave half done."""
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)


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


Evaluate = Callable[[], str]
