"""Kernels and bytes of each stage of the published models on a GPU, counted on meta tensors (`omni/bench/launches.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omni.bench.launches import Tally, counted
from omni.engine.block_manager import CachedSequence
from omni.engine.kv_cache import KVCache
from omni.families import config_in, family_in, read_config
from omni.families.qwen2_5_omni import build
from omni.kernels import rms_norm
from omni.kernels.dispatch import folder_of
from omni.models.decoder import Decoder
from omni.models.model import OmniModel
from omni.talker.flow import PUBLISHED

DATA = Path(__file__).parents[2] / "data"
META, BF16 = torch.device("meta"), torch.bfloat16
CONTEXT = 2048
LAYER = Counter(  # of a decoder, for one new row a sequence; attention splits its keys and merges
    rms_norm_kernel=2, addmm=1, rotate_write_kernel=1, attend_kernel=1, merge_kernel=1, silu_mul_kernel=1, mm=3
)
ENDS = Counter(embedding=1, index=1, _to_copy=3, mul=1, cos=1, sin=1, rms_norm_kernel=1, mm=1)  # rows, angles, logits
DIT = Counter(
    mm=1, add=1, addmm=22 * 6 + 1, layer_norm_kernel=22 * 2 + 1, addcmul=22 * 2, gelu_tanh_kernel=22,
    stack=22, rotate_kernel=22, copy_=22 * 2, attend_kernel=22,
)  # fmt: skip
TEXT = {
    "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "vocab_size": 151936,
}  # fmt: skip
BIGVGAN = Counter(
    up_snake_down_kernel=6 * 18 + 1, convolution=6 * 19 + 2, add=6 * 11, div=7, sub=3, clamp=3, mul=2, exp=1, log10=1,
    clone=1,
)  # fmt: skip


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


@pytest.fixture(scope="module", params=["3b", "7b"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OmniModel:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_bytes((DATA / f"qwen2_5_omni_{request.param}.config.json").read_bytes())
    built = build(read_config(folder)).to(META)
    assert built.talker
    for part in (built.thinker, built.talker):
        part.to(BF16)
    return built


def step(decoder: nn.Module, num_rows: int) -> Callable[[Tensor], Tensor]:
    """Gives each of `num_rows` sequences its row number CONTEXT."""
    assert isinstance(decoder, Decoder)
    cache = KVCache(decoder.config, max_blocks=num_rows * CONTEXT // 64, dtype=BF16, device=META)
    sequences = [CachedSequence() for _ in range(num_rows)]
    for sequence in sequences:
        cache.reserve(sequence, CONTEXT)
        sequence.length = CONTEXT - 1
    table, positions = cache.table(sequences, [1] * num_rows), meta(3, num_rows, dtype=torch.int64)
    return lambda rows: decoder(rows, positions, cache.store, table)


def bytes_of(*parts: nn.Module) -> int:
    return sum(p.nbytes for part in parts for p in part.parameters())


def cached(decoder: nn.Module, num_rows: int) -> int:
    assert isinstance(decoder, Decoder)
    config = decoder.config
    return 2 * num_rows * CONTEXT * config.num_layers * config.num_kv_heads * config.head_dim * BF16.itemsize


def check(tally: Tally, decoder: nn.Module, rest: Counter[str]) -> None:
    assert isinstance(decoder, Decoder)
    layers = Counter({name: n * decoder.config.num_layers for name, n in LAYER.items()})
    assert tally.launches == layers + ENDS + rest


@pytest.mark.parametrize("num_rows", [1, 32])
def test_thinker_step(model: OmniModel, num_rows: int) -> None:
    thinker, ids = model.thinker, meta(num_rows, dtype=torch.int64)
    decode = step(thinker.decoder, num_rows)
    with counted() as tally:
        thinker.logits(decode(thinker.embed(ids)[0]))
    check(tally, thinker.decoder, Counter(eq=3, bitwise_or=2, clone=int(num_rows > 1)))
    needed = bytes_of(thinker.decoder, thinker.lm_head) + cached(thinker.decoder, num_rows)
    assert 1 <= tally.moved / needed < 1.05  # the rest passes between kernels


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ({"model_type": "qwen2"}, Counter(addmm=1, mm=3)),
        ({"model_type": "qwen3", "head_dim": 128}, Counter(mm=4, rms_norm_kernel=2, clone=2)),  # q and k lie inside qkv
    ],
)
def test_text_step(family: dict[str, object], more: Counter[str]) -> None:
    """Qwen2 takes the launches of Qwen2.5-Omni's thinker; Qwen3 norms heads besides."""
    config = config_in(TEXT | family)
    model = family_in(family).build(config).to(META).to(BF16)
    thinker, ids = model.thinker, meta(4, dtype=torch.int64)
    decode = step(thinker.decoder, 4)
    with counted() as tally:
        thinker.logits(decode(thinker.embed(ids)[0]))
    layer = LAYER - Counter(addmm=1, mm=3) + more
    layers = Counter({name: n * config.thinker.decoder.num_layers for name, n in layer.items()})
    assert tally.launches == layers + ENDS + Counter(zeros_like=1, clone=1)


@pytest.mark.parametrize("num_rows", [1, 32])
def test_talker_step(model: OmniModel, num_rows: int) -> None:
    talker = model.talker
    assert talker
    codes, thoughts = meta(num_rows, dtype=torch.int64), meta(num_rows, talker.config.embedding_size, dtype=BF16)
    decode = step(talker.decoder, num_rows)
    with counted() as tally:
        talker.logits(decode(talker.thinker_to_talker_proj(talker.embed_tokens(codes) + thoughts)))
    check(tally, talker.decoder, Counter(add=1, addmm=1, clone=int(num_rows > 1)))
    needed = bytes_of(talker.decoder, talker.codec_head, talker.thinker_to_talker_proj) + cached(talker.decoder, num_rows)
    assert 1 <= tally.moved / needed < 1.1


def test_dit_evaluation(model: OmniModel) -> None:
    """Of 96 frames, with and without conditioning at once."""
    assert model.token2wav
    dit = model.token2wav.code2wav_dit_model
    schedule = dit.schedule(PUBLISHED)
    window = dit.window(meta(48, dtype=torch.int64), meta(1, 2, dit.config.hidden_size), [48])
    with counted() as tally:
        dit(meta(96, dit.config.mel_dim), window, schedule, 0)
    assert tally.launches == DIT
    assert tally.moved == pytest.approx(1.3125e9, rel=0.001)


def test_bigvgan(model: OmniModel) -> None:
    """Of a second of sound."""
    assert model.token2wav
    bigvgan = model.token2wav.code2wav_bigvgan_model
    with counted() as tally:
        bigvgan(meta(1, 100, bigvgan.config.mel_dim))
    assert tally.launches == BIGVGAN
    assert tally.moved == pytest.approx(1.8917e9, rel=0.001)


def test_tally() -> None:
    x, weight, table = meta(5, 8), meta(7, 8), meta(100, 8)
    with counted() as tally:
        (x @ weight.T).view(-1).relu_()
        table[meta(3, dtype=torch.int64)]
        x[:1].expand(9, 8).clone()
        torch.zeros(4) + 1  # on the host
        rms_norm(x, x[0], 1e-6)
    assert tally.launches == Counter(mm=1, relu_=1, index=1, clone=1, rms_norm_kernel=1)
    assert tally.moved == 4 * ((40 + 56 + 35) + 35 + (24 + 6 + 24) + (8 + 72) + (40 + 8 + 40))
    with counted() as tally:
        pass
    assert not tally.launches
    assert folder_of(x) is None
