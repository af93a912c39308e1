from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from omni.errors import OptionError
from omni.talker.flow import PUBLISHED, Rule, Solver, guide, integrate, sinusoid, stage_times, time_grid


def test_published_grid() -> None:
    grid = time_grid(PUBLISHED)
    want = torch.tensor([1 - math.cos(math.pi * k / 18) for k in range(10)])
    torch.testing.assert_close(grid, want, rtol=0, atol=2e-7)
    assert len(stage_times(grid).unique()) == len(stage_times(grid)) == 28


def test_even_grid() -> None:
    assert time_grid(Solver(num_points=5, sway=0.0)).tolist() == [0, 0.25, 0.5, 0.75, 1]


# rule -> (evaluations for each interval, its order)
RULES: dict[Rule, tuple[int, int]] = {"three_eighths": (4, 4), "midpoint": (2, 2), "euler": (1, 1)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_points", [2, 3, 10])
def test_velocity_is_asked_at_the_stage_times(num_points: int, rule: Rule) -> None:
    solver, (evaluations, order) = Solver(num_points, rule=rule), RULES[rule]
    grid = time_grid(solver)
    times = stage_times(grid, rule).tolist()
    asked = []

    def velocity(i: int, x: Tensor) -> Tensor:
        asked.append(i)
        return torch.full_like(x, order * times[i] ** (order - 1))

    x = integrate(velocity, torch.zeros(1), grid, rule)
    assert len(asked) == solver.num_evaluations == evaluations * (num_points - 1)
    assert set(asked) == set(range(len(times)))
    assert x.item() == pytest.approx(1, abs=1e-6)  # a rule is exact for polynomials below its order


@pytest.mark.parametrize("rule", RULES)
def test_order_of_the_rule(rule: Rule) -> None:
    def error(num_points: int) -> float:
        grid = torch.linspace(0, 1, num_points, dtype=torch.float64)
        times = stage_times(grid, rule)
        x = integrate(lambda i, x: x * torch.cos(2 * times[i]), torch.ones(1).double(), grid, rule)
        return abs(x.item() - math.exp(math.sin(2) / 2))

    assert error(65) / error(129) == pytest.approx(2 ** RULES[rule][1], rel=0.03)  # half the step


@pytest.mark.oracle
def test_integrate_as_transformers() -> None:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import RungeKutta4ODESolver

    grid, turn, x = time_grid(PUBLISHED), torch.randn(5, 5), torch.randn(7, 5)
    times = stage_times(grid)
    ours = integrate(lambda i, x: torch.sin(x @ turn) + times[i], x, grid)
    theirs = RungeKutta4ODESolver(lambda t, x: torch.sin(x @ turn) + t, x).integrate(grid)[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_guide() -> None:
    assert guide(torch.tensor([3.0]), torch.tensor([1.0]), 0.5).tolist() == [4]


def test_sinusoid() -> None:
    got = sinusoid(torch.tensor([0.0, 0.25]), 8)
    want = [[f(250 * 10 ** (-4 * i / 3)) for f in (math.sin, math.cos) for i in range(4)]]
    torch.testing.assert_close(got, torch.tensor([[0.0] * 4 + [1.0] * 4, *want]), rtol=0, atol=2e-5)


def test_grid_of_one_point() -> None:
    with pytest.raises(OptionError, match="num_points is 1"):
        Solver(num_points=1)


def test_unknown_rule() -> None:
    with pytest.raises(OptionError, match="rule is 'heun'"):
        Solver(rule="heun")  # type: ignore[arg-type]  # wrong on purpose
