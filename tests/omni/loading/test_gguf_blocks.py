"""A GGUF in every form answers as the floats that it means."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf.quants import dequantize, quantize
from torch import nn

from omni import Omni
from omni.engine.options import Options
from omni.kernels import quantised
from omni.loading.gguf_blocks import BlockPart
from omni.loading.packing import PackedLinear
from tests.oracle import make_tiny_gguf, make_tiny_text
from tests.oracle.make_tiny_text import VARIANTS, Variant
from tests.oracle.text import CHATS, greedy, logits

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
"""Blocks of 256 values fit into its rows."""
FORMS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


def load(path: Path) -> Omni:
    return Omni.load(path, device="cpu", dtype="float32", progress=False)


@torch.inference_mode()
def assert_same(path: Path) -> None:
    ours, plain = load(path), load(path.parent / "plain")
    for chat in CHATS:
        ids = plain.runtime.request(chat, None, Options()).prompt.ids
        assert torch.equal(ours.runtime.request(chat, None, Options()).prompt.ids, ids)
        assert float((logits(ours, ids) - logits(plain, ids)).abs().max()) < 1e-4
        assert greedy(ours, chat) == greedy(plain, chat)


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, tmp_path: Path) -> None:
    facts = WIDE | {"head_dim": 64} if form in ("F32", "Q4_0", "Q6_K") else WIDE
    family = "qwen3" if "head_dim" in facts else "qwen2"
    folder = make_tiny_text.write(Variant(family, facts), tmp_path / "given")
    assert_same(make_tiny_gguf.make(folder, tmp_path, form))


def test_four_bits_are_kept(tmp_path: Path) -> None:
    folder = make_tiny_text.write(Variant("qwen3", WIDE | {"head_dim": 64}), tmp_path / "given")
    path = make_tiny_gguf.make(folder, tmp_path, "Q4_0")
    ours, plain = Omni.load(path, device="cpu", progress=False), load(tmp_path / "plain")
    names = {name for name, module in ours.model.named_modules() if isinstance(module, PackedLinear)}
    assert {name.rpartition(".")[2] for name in names} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}
    ids = torch.arange(128)
    want = logits(plain, ids)
    assert float((logits(ours, ids) - want).norm() / want.norm()) < 2e-2  # scales, and maybe inputs, in bfloat16


def test_scales_are_rounded_once() -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    blocks = quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0)
    parts = [BlockPart(32, 64), BlockPart(16, 64)]
    for part, some in zip(parts, torch.from_numpy(blocks).split([32, 16]), strict=True):
        part.weight = nn.Parameter(some, requires_grad=False)
    ((order, kept),) = BlockPart.joined(parts)
    assert order is None and kept.nbytes == sum(part.kept_bytes for part in parts)
    halves = blocks.reshape(-1, 18)[:, :2].copy().view("<f2")
    halves[:] = torch.from_numpy(halves).bfloat16().half().numpy()
    rounded = blocks.reshape(-1, 18).copy()
    rounded[:, :2] = halves.view("u1")
    want = dequantize(rounded.reshape(blocks.shape), gguf.GGMLQuantizationType.Q4_0)
    assert torch.equal(quantised.dequantise(kept), torch.from_numpy(want))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "qwen3"])
def test_every_variant(name: str, tmp_path: Path) -> None:
    assert_same(make_tiny_gguf.make(make_tiny_text.make(name, tmp_path / "given"), tmp_path, "BF16"))
