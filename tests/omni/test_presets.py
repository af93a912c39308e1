from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni import Omni
from omni.device import has_fast_bfloat16
from omni.errors import OptionError
from omni.talker.vocoder import PRESETS

BLOCKS = "code2wav_dit_model.transformer_blocks."


@pytest.mark.parametrize("name", PRESETS)
def test_load_keeps_the_vocoder_as_its_preset_says(name: str) -> None:
    vocoder = Omni.load(device="cpu", vocoder=name, progress=False).model.token2wav
    assert vocoder
    preset = PRESETS[name]
    assert vocoder.solver == preset.solver
    kept: dict[bool, set[torch.dtype]] = {False: set(), True: set()}
    for key, p in vocoder.named_parameters():
        kept[key.startswith(BLOCKS) and ".attn_norm." not in key].add(p.dtype)
    assert kept == {False: {torch.float32}, True: {preset.dtype if has_fast_bfloat16() else torch.float32}}


def test_faithful_is_the_default() -> None:
    vocoder = Omni.load(device="cpu", progress=False).model.token2wav
    assert vocoder and vocoder.solver == PRESETS["faithful"].solver
    assert {p.dtype for p in vocoder.parameters()} == {torch.float32}


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vocoder is 'quick'"):
        Omni.load(tmp_path / "never read", vocoder="quick")
