from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from omni.models.config import DecoderConfig, Yarn
from omni.models.rotary import frequencies

PLAIN = DecoderConfig(64, 96, 2, 4, 2, 128, 1e-6, 1e6, (0,) * 64, None, False, False, True, 40960)
YARN = Yarn(4.0, 32768, 32, 1, True, 1.0)


def test_plain_frequencies_fall_from_one() -> None:
    found = frequencies(PLAIN)
    assert found[0] == 1
    torch.testing.assert_close(found.double(), 1e6 ** (-torch.arange(64, dtype=torch.float64) / 64))


def test_yarn_leaves_the_fast_and_stretches_the_slow() -> None:
    plain, found = frequencies(PLAIN), frequencies(replace(PLAIN, rope_scaling=YARN))
    stretched = plain / found
    assert torch.equal(found[:20], plain[:20])
    torch.testing.assert_close(stretched[-20:], torch.full((20,), 4.0))
    assert (stretched.diff() >= -1e-6).all()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("facts", "yarn"),
    [
        ({}, YARN),
        ({"head_dim": 24, "rope_theta": 1e4}, Yarn(4.0, 64, 32, 1, True, 1.0)),  # both bounds are the first frequency
        ({"head_dim": 64}, Yarn(2.5, 4096, 16, 2, False, 1.0)),
        ({"rope_theta": 1e4}, Yarn(8.0, 4096, 32, 1, True, 1.0)),
    ],
)
def test_yarn_equals_transformers(facts: dict[str, Any], yarn: Yarn) -> None:
    from transformers import Qwen3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = replace(PLAIN, rope_scaling=yarn, **facts)
    rope = {
        "rope_type": "yarn", "rope_theta": config.rope_theta, "factor": yarn.factor, "beta_fast": yarn.fast,
        "beta_slow": yarn.slow, "original_max_position_embeddings": yarn.original_positions, "truncate": yarn.truncate,
    }  # fmt: skip
    theirs = Qwen3Config(head_dim=config.head_dim, rope_parameters=rope, max_position_embeddings=40960)
    assert torch.equal(frequencies(config), ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))[0])
