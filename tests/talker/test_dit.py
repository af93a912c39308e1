from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omni.talker.dit import DiT, Place
from omni.talker.flow import PUBLISHED, Rule, Solver, stage_times
from tests.talker import tiny


def sample(geometry: str, nums: list[int], seeds: list[int]) -> list[Tensor]:
    """Mel frames of several windows, each of its own length and voice, made at once."""
    dit = tiny.vocoder(geometry).code2wav_dit_model
    codes = torch.tensor([code for n in nums for code in tiny.codes(geometry, n)])
    noise = torch.cat([tiny.noise(geometry, dit.config.repeats * n) for n in nums])
    voices = torch.stack([tiny.prepared(geometry, seed).rows for seed in seeds])
    mel = dit.sample(codes, noise, voices, nums, tiny.prepared(geometry).schedule)
    return list(mel.split([dit.config.repeats * n for n in nums]))


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
@pytest.mark.parametrize(("num_codes", "time"), [(1, 0), (12, 27), (31, 5)])
def test_velocities_as_transformers(geometry: str, num_codes: int, time: int) -> None:
    voice, prepared = tiny.voice(geometry), tiny.prepared(geometry)
    dit, reference = tiny.vocoder(geometry).code2wav_dit_model, tiny.reference(geometry).code2wav_dit_model
    codes = torch.tensor(tiny.codes(geometry, num_codes))
    x = tiny.noise(geometry, 2 * num_codes)
    ours = dit(x, dit.window(codes, prepared.rows[None], [num_codes]), prepared.schedule, time)
    theirs = reference(
        hidden_states=x[None],
        condition_vector=voice.ref_mel[None],
        speaker_embedding=voice.cond.expand(1, 2 * num_codes, -1),
        quantized_code=codes[None],
        time_step=stage_times(prepared.schedule.grid)[time],
    )
    assert (theirs[0] - theirs[1]).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
@pytest.mark.parametrize("num_codes", [1, 12, 61])
def test_mel_as_transformers(geometry: str, num_codes: int) -> None:
    voice = tiny.voice(geometry)
    torch.manual_seed(5)  # of tiny.noise, drawn by transformers itself
    theirs = tiny.reference(geometry).code2wav_dit_model.sample(
        voice.cond[None], voice.ref_mel[None], torch.tensor([tiny.codes(geometry, num_codes)])
    )
    (ours,) = sample(geometry, [num_codes], [0])
    torch.testing.assert_close(ours.T, theirs[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
def test_windows_at_once_are_windows_alone(geometry: str) -> None:
    nums, seeds = [7, 30, 30], [0, 1, 0]
    for together, num, seed in zip(sample(geometry, nums, seeds), nums, seeds, strict=True):
        (alone,) = sample(geometry, [num], [seed])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
def test_a_window_after_another_is_the_rest_of_both(geometry: str) -> None:
    """Beside a speech that begins; look-ahead is left whole, so nothing is cut off."""
    dit, prepared = tiny.vocoder(geometry).code2wav_dit_model, tiny.prepared(geometry)
    codes, noise = torch.tensor(tiny.codes(geometry, 61)), tiny.noise(geometry, 122)
    both = sample(geometry, [61], [0])[0]
    _, pasts = dit.sample_on(codes, noise, prepared.rows[None], [61], prepared.schedule, [Place(next=48)])
    assert pasts[0] is not None
    assert pasts[0].numel() == dit.past_size(prepared.schedule.solver)
    other = tiny.prepared(geometry, 1).rows
    made, none = dit.sample_on(
        torch.cat((torch.tensor(tiny.codes(geometry, 30)), codes[24:])),
        torch.cat((tiny.noise(geometry, 60), noise[48:])),
        torch.stack((other, prepared.rows)),
        [30, 37],
        prepared.schedule,
        [Place(), Place(48, pasts[0])],
    )
    assert none == [None, None]
    torch.testing.assert_close(made[:60], sample(geometry, [30], [1])[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(made[60:], both[48:], rtol=0, atol=2e-5)


def test_a_frame_sees_four_blocks() -> None:
    """One evaluation carries a change two blocks on and one back (layers look back twice and ahead once)."""
    dit, prepared = tiny.vocoder("deep").code2wav_dit_model, tiny.prepared("deep")
    window = dit.window(torch.tensor(tiny.codes("deep", 84)), prepared.rows[None], [84])
    x = tiny.noise("deep", 168)
    moved = x.clone()
    moved[3 * 24 + 5] += 1
    change = dit(moved, window, prepared.schedule, 3) - dit(x, window, prepared.schedule, 3)
    assert change.abs().amax((0, 2)).unflatten(0, (-1, 24)).amax(1).gt(0).tolist() == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
    ]


def test_schedule_follows_the_solver() -> None:
    dit = tiny.vocoder("small").code2wav_dit_model
    assert dit.schedule(PUBLISHED).blocks.shape == (28, 4, 6, 32)
    assert dit.schedule(Solver(num_points=4)).out.shape == (10, 2, 32)
    assert dit.schedule(Solver(num_points=4, rule="midpoint")).out.shape == (6, 2, 32)


@pytest.mark.parametrize(("rule", "order"), [("three_eighths", 4), ("midpoint", 2), ("euler", 1)])
def test_error_falls_by_the_order_of_the_rule(rule: Rule, order: int) -> None:
    """Random weights change wildly with the time, which stands still here; `test_flow` moves it."""
    dit = deepcopy(tiny.vocoder("small").code2wav_dit_model)
    dit.get_parameter("time_embed.time_mlp.2.weight").zero_()
    dit.proj_out.weight.mul_(0.3)
    codes, noise, voices = torch.tensor(tiny.codes("small", 12)), tiny.noise("small", 24), tiny.prepared("small").rows[None]

    def mel(num_points: int, rule: Rule) -> Tensor:
        return dit.sample(codes, noise, voices, [12], dit.schedule(Solver(num_points, rule=rule)))

    truth = mel(33, "three_eighths")
    errors = [(mel(n, rule) - truth).norm().item() for n in (3, 9)]
    assert errors[0] / errors[1] == pytest.approx(4**order, rel=0.25)  # a quarter of the step


def test_computed_tables_are_real_on_meta() -> None:
    with torch.device("meta"):
        dit = DiT(replace(tiny.SMALL[0], num_layers=1))
    assert dit.proj_out.weight.is_meta
    assert dit.inv_freq.equal(tiny.vocoder("small").code2wav_dit_model.inv_freq)
