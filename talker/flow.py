"""From noise to data along a velocity field: the time grid, guidance, and Runge-Kutta rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from omni.errors import OptionError

Rule: TypeAlias = Literal["three_eighths", "midpoint", "euler"]
NODES: Mapping[Rule, tuple[float, ...]] = {"three_eighths": (0, 1 / 3, 2 / 3, 1), "midpoint": (0, 1 / 2), "euler": (0,)}
"""Where in an interval each rule asks for the velocity; of order four, two and one."""


@dataclass(frozen=True)
class Solver:
    """How a speech is integrated from t = 0 to 1; the defaults are those of the published models.

    Attributes:
        num_points: of the time grid, both ends included.
        guidance: how far to go beyond the conditional velocity, away from the unconditional one.
        sway: moves the points towards t = 0 (-1) or leaves them evenly apart (0) (F5-TTS, arXiv 2410.06885).
    """

    num_points: int = 10
    guidance: float = 0.5
    sway: float = -1.0
    rule: Rule = "three_eighths"

    @property
    def num_evaluations(self) -> int:
        """How often the velocity is asked for."""
        return len(NODES[self.rule]) * (self.num_points - 1)

    def __post_init__(self) -> None:
        if self.num_points < 2:
            raise OptionError(f"num_points is {self.num_points}; a time grid has 2 or more")
        if self.rule not in NODES:
            raise OptionError(f"rule is {self.rule!r}; give one of {', '.join(map(repr, NODES))}")


PUBLISHED = Solver()


def time_grid(solver: Solver) -> Tensor:
    """Float32 `[num_points]` from 0 to 1; with sway -1 point k is 1 - cos(pi k / (2 (num_points - 1)))."""
    t = torch.linspace(0, 1, solver.num_points, device="cpu")
    return t + solver.sway * (torch.cos(torch.pi / 2 * t) - 1 + t)


def stage_times(grid: Tensor, rule: Rule = "three_eighths") -> Tensor:
    """Every time at which `integrate` asks for the velocity, each once: float32 `[R]`."""
    inner = [node for node in NODES[rule] if node < 1]
    times = torch.stack([grid[:-1] + grid.diff() * node for node in inner], 1).flatten()
    return torch.cat((times, grid[-1:])) if 1 in NODES[rule] else times


def integrate(velocity: Callable[[int, Tensor], Tensor], x: Tensor, grid: Tensor, rule: Rule = "three_eighths") -> Tensor:
    """Follow the velocity from `grid[0]` to `grid[-1]`.

    Args:
        velocity: its first argument is an index into `stage_times(grid, rule)`, its second is shaped as x.
        x: where to start.
        grid: `[num_points]`.
    """
    for k, h in enumerate(grid.diff().tolist()):
        x = STEPS[rule](velocity, k, x, h)
    return x


def _three_eighths(velocity: Callable[[int, Tensor], Tensor], k: int, x: Tensor, h: float) -> Tensor:
    k1 = velocity(3 * k, x)
    k2 = velocity(3 * k + 1, x + h * k1 * (1 / 3))
    k3 = velocity(3 * k + 2, x + h * (k2 - k1 * (1 / 3)))
    k4 = velocity(3 * k + 3, x + h * (k1 - k2 + k3))
    return x + (k1 + 3 * (k2 + k3) + k4) * h / 8


def _midpoint(velocity: Callable[[int, Tensor], Tensor], k: int, x: Tensor, h: float) -> Tensor:
    half = x + velocity(2 * k, x) * (h / 2)
    return x + velocity(2 * k + 1, half) * h


def _euler(velocity: Callable[[int, Tensor], Tensor], k: int, x: Tensor, h: float) -> Tensor:
    return x + velocity(k, x) * h


STEPS: Mapping[Rule, Callable[[Callable[[int, Tensor], Tensor], int, Tensor, float], Tensor]] = {
    "three_eighths": _three_eighths,
    "midpoint": _midpoint,
    "euler": _euler,
}


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598)."""
    return conditional + (conditional - unconditional) * guidance


def sinusoid(times: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of 1000 t at `dim / 2` frequencies from 1 to 1e-4: `[R, dim]` from times `[R]`."""
    half = dim // 2
    freqs = torch.exp(torch.arange(half, device=times.device).float() * -(math.log(10000) / (half - 1)))
    angle = 1000 * times[:, None] * freqs  # [R, dim / 2]
    return torch.cat((angle.sin(), angle.cos()), -1)
