from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from omni import Omni
from omni.errors import OptionError
from omni.kernels.linear import gains_int8
from omni.kernels.native.linear import PackedInt8
from omni.kernels.quantised import Int8
from omni.loading.device import has_fast_bfloat16
from omni.loading.packing import PackedLinear
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
        kept[key.startswith(BLOCKS) and ".attn_norm." not in key].add(p.dtype)  # of packed products biases are left
    assert kept == {False: {torch.float32}, True: {preset.dtype if has_fast_bfloat16() else torch.float32}}


def test_faithful_is_the_default() -> None:
    vocoder = Omni.load(device="cpu", progress=False).model.token2wav
    assert vocoder and vocoder.solver == PRESETS["faithful"].solver
    assert {p.dtype for p in vocoder.parameters()} == {torch.float32}


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vocoder is 'quick'"):
        Omni.load(tmp_path / "never read", vocoder="quick")


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", PRESETS)
def test_bytes_where_both_speed_and_fewer_bits_are_asked_for(name: str, weights: str) -> None:
    vocoder = Omni.load(device="cpu", vocoder=name, weights=weights, progress=False).model.token2wav
    assert vocoder
    linears = re.compile(r"attn\.to_[qkv]|attn\.to_out\.0|ff\.ff\.[03]")
    for block in vocoder.code2wav_dit_model.transformer_blocks:
        products = [module for key, module in block.named_modules() if linears.fullmatch(key)]
        assert len(products) == 6
        for module in products:
            in_bytes = isinstance(module, PackedLinear) and isinstance(module.packed[0], (Int8, PackedInt8))
            assert in_bytes == (name != "faithful" and gains_int8(torch.device("cpu")))
