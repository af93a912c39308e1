"""The sampler against transformers' own chain of processors, and its rules worked by hand."""

from __future__ import annotations

import pytest
import torch

from omni.errors import OptionError
from omni.kernels.sampling import Sampler, Sampling, penalise, top_k, top_p

CPU = torch.device("cpu")
GREEDY = Sampling()


def sampler(sampling: Sampling = GREEDY, vocab: int = 50, **how: object) -> Sampler:
    return Sampler(sampling, vocab, seed=3, device=CPU, **how)  # type: ignore[arg-type]  # options spread


@pytest.mark.oracle
@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("p", [0.1, 0.8, 0.999])
def test_filters_equal_transformers(k: int, p: float) -> None:
    from transformers.generation import logits_process as theirs

    scores = torch.randn(1, 300) * 3
    scores[0, 5] = scores[0, 9]  # a tie
    ids = torch.tensor([[4, 9, 9, 31]])
    seen = torch.zeros(300, dtype=torch.bool)
    seen[ids[0]] = True
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.05)(ids, scores)
    ours = torch.where(seen, penalise(scores, 1.05), scores)
    assert torch.equal(ours, expected)
    expected = theirs.TopKLogitsWarper(k)(ids, expected / 0.9)
    ours = top_k(ours / 0.9, k)
    assert torch.equal(ours, expected)
    assert torch.equal(top_p(ours, p), theirs.TopPLogitsWarper(p)(ids, expected))


def test_top_k_keeps_ties() -> None:
    assert top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2).isfinite().tolist() == [False, True, True, True]


def test_top_p_keeps_the_likeliest() -> None:
    assert top_p(torch.tensor([0.0, 5.0, 0.0]), 1e-6).isfinite().tolist() == [False, True, False]


def test_pick_greedy_takes_the_highest_score() -> None:
    assert int(sampler().pick(torch.arange(50.0))) == 49


def test_pick_penalises_what_it_picked() -> None:
    s = sampler(Sampling(repetition_penalty=2.0))
    logits = torch.zeros(50)
    logits[7], logits[8] = 3.0, 2.0
    assert [int(s.pick(logits)) for _ in range(3)] == [7, 8, 7]


def test_pick_never_takes_suppressed_or_invalid_ids() -> None:
    s = sampler(Sampling(temperature=5.0), suppress=(3,), valid=40, stops=(45,))
    picked = {int(s.pick(torch.zeros(50))) for _ in range(600)}
    assert picked == {*range(40), 45} - {3}


def test_pick_falls_back_where_all_kept_ids_are_invalid() -> None:
    s = sampler(Sampling(temperature=1.0, top_k=2), valid=48)
    logits = torch.zeros(50)
    logits[48], logits[49], logits[11] = 9.0, 8.0, 1.0
    assert int(s.pick(logits)) == 11


def test_pick_of_valid_ids_keeps_the_odds_of_the_rest() -> None:
    """Invalid ids take part in top-k, as in transformers, and only then are out of the race."""
    s = sampler(Sampling(temperature=1.0, top_k=3), valid=48)
    logits = torch.zeros(50)
    logits[48], logits[1], logits[2], logits[3] = 9.0, 8.0, 7.0, 6.0
    assert {int(s.pick(logits)) for _ in range(200)} == {1, 2}


def test_pick_draws_from_the_softmax() -> None:
    s = sampler(Sampling(temperature=1.0), vocab=3)
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    count = torch.zeros(3)
    for _ in range(4000):
        count[int(s.pick(logits))] += 1
    # three standard deviations of a binomial share
    assert torch.allclose(count / 4000, torch.tensor([0.5, 0.3, 0.2]), atol=3 * (0.25 / 4000) ** 0.5)


def test_pick_same_seed_same_draws() -> None:
    logits = torch.randn(50)
    runs = [[int(s.pick(logits)) for _ in range(20)] for s in (sampler(Sampling(1.0)), sampler(Sampling(1.0)))]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -2}, {"top_p": 0}, {"top_p": 1.1}, {"repetition_penalty": 0}]
)
def test_sampling_rejects(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]  # wrong on purpose
