"""Recorded steps equal steps that are launched anew; on a CPU a stand-in records them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from omni import Omni
from omni.engine import graphs
from omni.engine.block_manager import CachedSequence
from omni.engine.graphs import AT_ONCE, BATCHES, MOST, WIDTHS, RecordedRunner, fits
from omni.engine.runner import ModelRunner
from omni.engine.step import FIELDS, LocalRunner, Step
from omni.kernels import BlockTable, attend_paged, dispatch
from omni.kernels.replay import Replays
from omni.models import decoder
from omni.models.decoder import Decoder
from tests.kernels.recording import stand_in
from tests.oracle.tiny import GEOMETRIES, tiny


def attend_as_recorded(q: Tensor, keys: Tensor, values: Tensor, table: BlockTable) -> Tensor:
    """What the contract lets a record read: blocks and lengths on the device. One row a sequence; prompts are not."""
    if any(table.kv_lens):
        return attend_paged(q, keys, values, table)
    (_, H, D), K = q.shape, keys.shape[2]
    k, v = (x[table.blocks].flatten(1, 2).repeat_interleave(H // K, 2) for x in (keys, values))  # [B, M P, H, D]
    unseen = torch.arange(k.shape[1]) >= table.kv_len[:, None]
    odds = (torch.einsum("bhd,bmhd->bhm", q, k) * D**-0.5).masked_fill(unseen[:, None], -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("bhm,bmhd->bhd", odds, v.masked_fill(unseen[..., None, None], 0))


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "attend_paged", attend_as_recorded)
    monkeypatch.setattr(dispatch, "folder_of", lambda x: None)  # the stand-in sees what torch does, and nothing in C
    monkeypatch.setattr(graphs, "AT_ONCE", ((1, 8), (2, 8)))


def grown(net: Decoder, cache_tokens: int) -> ModelRunner:
    """A runner whose memory moves no more, as on a GPU."""
    runner = ModelRunner(net, cache_tokens, graphs=False)
    runner.cache.take_all()
    for x in (runner.cache.store.keys, runner.cache.store.values):
        x.normal_()  # what others left there
    return runner


def advance(runner: ModelRunner, lens: list[int], steps: list[list[int]]) -> list[Tensor]:
    """Hidden rows of prompts of these lengths, then of steps of one row of the sequences that are named."""
    draw = torch.Generator().manual_seed(1)
    width, device = runner.decoder.config.hidden_size, runner.device

    def rows(count: int) -> Tensor:
        return torch.randn(count, width, generator=draw).to(device, runner.decoder.norm.weight.dtype)

    held = [CachedSequence() for _ in lens]
    at = [torch.stack((torch.arange(n) * 3, torch.arange(n), torch.arange(n) // 2)) for n in lens]
    out = runner.advance(held, [rows(n) for n in lens], at)
    top = [3 * n for n in lens]
    for named in steps:
        new = [torch.tensor([[top[i]], [top[i] + 1], [top[i] + 2]]) for i in named]
        out += runner.advance([held[i] for i in named], [rows(1) for _ in named], new)
        for i in named:
            top[i] += 1
    return out


STEPS = [[0], [0], [2, 0, 1], [1, 2], *[[0, 1, 2, 3, 4]] * 3, [4], [3, 1, 4, 0], *[[1]] * 4]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_recorded_steps_equal_others(geometry: str) -> None:
    net = Omni.load(tiny(geometry), dtype="float32", speech=False, progress=False).model.thinker.decoder
    assert isinstance(net, Decoder)
    # the second crosses into another page, the third needs a wider record, the fourth soon does
    lens = [5, 62, 600, 511, 1]
    want = advance(grown(net, 4096), lens, STEPS)
    runner = grown(net, 4096)
    sizes = []

    def record(run: Any) -> Any:
        replay, out = stand_in(run)
        sizes.append(len(out[0]))
        return replay, out

    runner.run = RecordedRunner(net, runner.cache.store, Replays(record, MOST))
    got = advance(runner, lens, STEPS)
    assert sizes == [1, 2, 4, 2, 8], "two while loading, then wider ones"
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_results_stay_when_the_next_step_runs() -> None:
    net = Omni.load(dtype="float32", speech=False, progress=False).model.thinker.decoder
    runner = grown(net, 1024)
    runner.run = RecordedRunner(net, runner.cache.store, Replays(stand_in, MOST))
    held, rows, at = CachedSequence(), torch.randn(2, 1, net.config.hidden_size), torch.zeros(3, 1, dtype=torch.int64)
    (first,) = runner.advance([held], [rows[0]], [at])
    before = first.clone()
    (second,) = runner.advance([held], [rows[1]], [at + 1])
    assert torch.equal(first, before)
    assert not torch.equal(first, second)


def test_what_is_too_much_for_a_record() -> None:
    def step(batch: int, width: int) -> Step:
        return Step(torch.zeros(batch, 4), torch.zeros(batch, FIELDS + width, dtype=torch.int64))

    assert fits(step(BATCHES[-1], WIDTHS[-1]))
    assert not fits(step(BATCHES[-1] + 1, 1))
    assert not fits(step(1, WIDTHS[-1] + 1))
    assert all(batch in BATCHES and width in WIDTHS for batch, width in AT_ONCE)


@torch.inference_mode()
def test_what_is_too_much_for_a_record_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Omni.load(dtype="float32", speech=False, progress=False).model.thinker.decoder
    assert isinstance(net, Decoder)
    want = advance(grown(net, 1024), [5, 70, 1], STEPS[:4])
    monkeypatch.setattr(graphs, "BATCHES", (1, 2))
    runner = grown(net, 1024)
    runner.run = RecordedRunner(net, runner.cache.store, Replays(stand_in, MOST))
    for a, b in zip(want, advance(runner, [5, 70, 1], STEPS[:4]), strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", ["thinker", "talker"])
@torch.inference_mode()
def test_graphs_on_a_gpu(part: str, dtype: str) -> None:
    net: Any = getattr(Omni.load(device="cuda", dtype=dtype, graphs=False, progress=False).model, part).decoder
    plain, runner = (ModelRunner(net, 4096, graphs=on) for on in (False, True))
    assert isinstance(plain.run, LocalRunner)
    assert isinstance(runner.run, RecordedRunner)
    lens = [5, 62, 600, 511, 1]
    tolerance = 2e-5 if dtype == "float32" else 0.05
    for a, b in zip(advance(plain, lens, STEPS), advance(runner, lens, STEPS), strict=True):
        assert float((a - b).float().norm() / a.float().norm()) < tolerance


@pytest.mark.gpu
def test_answers_with_graphs_are_those_without() -> None:
    messages = [{"role": "user", "content": "What can you do?"}]
    options: dict[str, Any] = {"voice": "Chelsie", "max_audio_seconds": 3.0, "temperature": 0.0, "seed": 0}
    both = [Omni.load(device="cuda", dtype="float32", graphs=on, progress=False) for on in (False, True)]
    a, b = (omni.generate(messages, **options) for omni in both)
    assert a.text == b.text
    assert a.audio is not None
    assert b.audio is not None
    assert len(a.audio) == len(b.audio)
