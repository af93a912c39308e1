"""From noise to data along a velocity field: the time grid, guidance, and a fourth-order Runge-Kutta rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omni.errors import OptionError


@dataclass(frozen=True)
class Solver:
    """How a speech is integrated from t = 0 to 1; the defaults are those of the published models.

    Attributes:
        num_points: of the time grid, both ends included; four evaluations for each interval between them.
        guidance: how far to go beyond the conditional velocity, away from the unconditional one.
        sway: moves the points towards t = 0 (-1) or leaves them evenly apart (0) (F5-TTS, arXiv 2410.06885).
    """

    num_points: int = 10
    guidance: float = 0.5
    sway: float = -1.0

    def __post_init__(self) -> None:
        if self.num_points < 2:
            raise OptionError(f"num_points is {self.num_points}; a time grid has 2 or more")


PUBLISHED = Solver()


def time_grid(solver: Solver) -> Tensor:
    """Float32 `[num_points]` from 0 to 1; with sway -1 point k is 1 - cos(pi k / (2 (num_points - 1)))."""
    t = torch.linspace(0, 1, solver.num_points, device="cpu")
    return t + solver.sway * (torch.cos(torch.pi / 2 * t) - 1 + t)


def stage_times(grid: Tensor) -> Tensor:
    """Every time at which `integrate` asks for the velocity, each once: float32 `[3 (len(grid) - 1) + 1]`."""
    step = grid.diff()
    inner = torch.stack((grid[:-1], grid[:-1] + step * (1 / 3), grid[:-1] + step * (2 / 3)), 1)
    return torch.cat((inner.flatten(), grid[-1:]))


def integrate(velocity: Callable[[int, Tensor], Tensor], x: Tensor, grid: Tensor) -> Tensor:
    """Follow the velocity from `grid[0]` to `grid[-1]` by the 3/8 rule.

    Args:
        velocity: its first argument is an index into `stage_times(grid)`, its second is shaped as x.
        x: where to start.
        grid: `[num_points]`.
    """
    for k, h in enumerate(grid.diff().tolist()):
        k1 = velocity(3 * k, x)
        k2 = velocity(3 * k + 1, x + h * k1 * (1 / 3))
        k3 = velocity(3 * k + 2, x + h * (k2 - k1 * (1 / 3)))
        k4 = velocity(3 * k + 3, x + h * (k1 - k2 + k3))
        x = x + (k1 + 3 * (k2 + k3) + k4) * h / 8
    return x


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598)."""
    return conditional + (conditional - unconditional) * guidance


def sinusoid(times: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of 1000 t at `dim / 2` frequencies from 1 to 1e-4: `[R, dim]` from times `[R]`."""
    half = dim // 2
    freqs = torch.exp(torch.arange(half, device=times.device).float() * -(math.log(10000) / (half - 1)))
    angle = 1000 * times[:, None] * freqs  # [R, dim / 2]
    return torch.cat((angle.sin(), angle.cos()), -1)
