from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omni.api import Omni
from omni.bench.case import FEWER_BITS
from omni.cli import doctor
from omni.cli.doctor import CONVERSATION, _kv_bytes, examine, weights_sizes
from omni.engine.block_manager import CachedSequence
from omni.engine.runner import ModelRunner
from omni.errors import CheckpointError, OptionError
from omni.evaluation.evaluate import read_set
from omni.families import read_config
from omni.families.qwen2_5_omni import FAMILY, LAYOUT, build
from omni.kernels.linear import pack
from omni.kernels.quantised import dequantise, quantise_int4, quantise_int8
from omni.loading.checkpoint import BUNDLED, Checkpoint, Entry, plan
from omni.loading.gptq_awq import STORAGES, Part, Published, read_published
from omni.loading.packing import HEADS, PackedLinear, Packing, pack_linears
from omni.models.config import ModelConfig
from omni.models.decoder import STACKS
from tests.omni.loading.test_checkpoint import published
from tests.oracle import text
from tests.oracle.make_tiny_text import make
from tests.oracle.tiny import tiny

sizes_of = partial(weights_sizes, FAMILY)
LINEARS = {name for names in STACKS.values() for name in names} | {"self_attn.o_proj", "mlp.down_proj"}
GROUP = 64


def load(folder: Path | None = None, **options: Any) -> Omni:
    asked: dict[str, Any] = {"dtype": "float32", "speech": False} | options
    return Omni.load(folder, device="cpu", progress=False, **asked)


def hidden(omni: Omni, rows: Tensor) -> Tensor:
    runner = ModelRunner(omni.model.thinker.decoder, 512)
    positions = torch.arange(len(rows)).expand(3, -1)
    with torch.inference_mode():
        return runner.advance([CachedSequence()], [rows], [positions])[0]


def logits(omni: Omni, rows: int) -> Tensor:
    drawn = torch.randint(0, omni.model.config.thinker.vocab_size, (rows,), generator=torch.Generator().manual_seed(0))
    return omni.model.thinker.logits(hidden(omni, omni.model.thinker.embed_tokens(drawn)))


@pytest.fixture(scope="module")
def plain() -> Omni:
    return load()


# ---- rounding while loading


@pytest.mark.parametrize(("weights", "quantise"), [("int8", quantise_int8), ("int4", quantise_int4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 17, 256])
def test_packed_linear_is_the_layer_of_the_rounded_weight(
    rows: int, bias: bool, weights: str, quantise: Callable[[Tensor], Any]
) -> None:
    layer = nn.Linear(96, 130, bias=bias).requires_grad_(False)
    holder, x = nn.ModuleDict({"layer": layer}), torch.randn(rows, 96)
    w = dequantise(quantise(layer.weight)).double()
    truth = x.double() @ w.t() + (layer.bias.double() if bias else 0)
    pack_linears(holder, weights)
    packed = holder["layer"]
    assert isinstance(packed, PackedLinear)
    # x in 8 bits at worst for int8, so half a step of each input; x, weight and result in bfloat16 at worst for int4
    step = x.double().abs().amax(1, keepdim=True) / 127
    bound = step / 2 * w.abs().sum(1) if weights == "int8" else 3.1 * 2.0**-8 * (x.double().abs() @ w.abs().t())
    assert ((packed(x).double() - truth).abs() <= bound + 1e-4).all()


def in_8_bits(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    step = args[0].abs().amax(-1, keepdim=True) / 127
    return ((args[0] / step).round() * step,)


def in_bfloat16(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].bfloat16().float(),)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_logits_are_those_of_a_float_model_rounded_alike(weights: str, plain: Omni) -> None:
    """A float model of the same rounded weights and inputs errs as much, and most of the error is the same.

    How far a rounding moves logits depends on what the weights have learnt, so no figure bounds it; two errors that have
    nothing to do with each other would be as far apart as the root of their squares' sum. CPUs round inputs in ways of their
    own. The median, since after random ids a few rows are near a turning point of the softmax.
    """
    packed, rounded = load(weights=weights), load()
    for name, module in packed.model.named_modules():
        if isinstance(module, PackedLinear):
            eight = weights == "int8" or name in HEADS
            linear = rounded.model.get_submodule(name)
            assert isinstance(linear.weight, Tensor)
            linear.weight.copy_(dequantise((quantise_int8 if eight else quantise_int4)(linear.weight)))
            linear.register_forward_pre_hook(in_8_bits if eight else in_bfloat16)
    want, got, truth = (logits(omni, 48) for omni in (plain, packed, rounded))
    error, of_rounding, apart = ((a - b).norm(dim=1).median() for a, b in ((got, want), (truth, want), (got, truth)))
    assert of_rounding > 0
    assert error < 1.5 * of_rounding
    assert apart < 0.75 * math.hypot(error, of_rounding)


def test_int8_gives_the_same_text(plain: Omni) -> None:
    rounded = load(weights="int8")
    for case in read_set(None, ["sees"]).cases[:4]:
        messages = [{"role": "user", "content": case.turns[0].content}]
        assert rounded.generate(messages, max_tokens=40).text == plain.generate(messages, max_tokens=40).text


def test_both_decoders_and_heads_are_packed_and_speak() -> None:
    omni = load(weights="int4", speech=True)
    packed = [name for name, module in omni.model.named_modules() if isinstance(module, PackedLinear)]
    layers = omni.model.config.thinker.decoder.num_layers + omni.model.config.talker_decoder.num_layers
    assert len(packed) == 4 * layers + 2
    assert not any(isinstance(module, PackedLinear) for module in omni.model.thinker.visual.modules())
    reply = omni.generate([{"role": "user", "content": "Hello!"}], voice=omni.default_voice, max_audio_seconds=0.5, seed=0)
    assert reply.text
    assert reply.audio is not None


@pytest.mark.parametrize("weights", ["int5", "", "bfloat16"])
def test_unknown_weights_are_refused(weights: str) -> None:
    with pytest.raises(OptionError, match="give 'auto', 'int8', 'int4'"):
        load(weights=weights)


def test_bfloat16_is_packed_where_that_pays(plain: Omni) -> None:
    assert not any(isinstance(module, PackedLinear) for module in plain.model.modules())
    omni = load(dtype="bfloat16")
    packs = any(isinstance(module, PackedLinear) for module in omni.model.modules())
    assert packs == (not isinstance(pack(torch.zeros(2, 2).bfloat16()), Tensor))
    want = logits(plain, 20)
    assert float((logits(omni, 20) - want).norm() / want.norm()) < 0.03


def test_bytes_are_foretold() -> None:
    for weights in ("int8", "int4"):
        checkpoint = Checkpoint.open(BUNDLED)
        omni = load(weights=weights, speech=True)
        packing = Packing(build(omni.model.config), checkpoint, LAYOUT, weights=weights, published=None)
        for name, size in packing.kept.items():
            linear = omni.model.get_submodule(name)
            assert isinstance(linear, PackedLinear)
            held = sum(each.nbytes for each in linear.packed)
            if weights == "int8" or name in HEADS:  # a CPU's own form has two numbers more an output
                assert size in (held, held + 8 * linear.out_features), name
            else:  # a kernel may fill outputs up to whole blocks of 64
                assert size <= held <= size * (1 + 64 / linear.out_features), name


# ---- published in four bits


def words(values: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    """Int32 words of eight values along an axis, written with loops."""
    values = values.movedim(axis, 0).long()
    out = []
    for first in range(0, len(values), 8):
        word = torch.zeros_like(values[0])
        for place, i in enumerate(order):
            word |= values[first + i] << 4 * place
        out.append(torch.where(word >= 1 << 31, word - (1 << 32), word).int())
    return torch.stack(out).movedim(0, axis).contiguous()


def publish_layers(
    tensors: dict[str, Tensor], method: str, *, group: int = GROUP, shuffled: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of a checkpoint with its decoder's layers in a published layout, and the same as plain weights."""
    published, plain = dict(tensors), dict(tensors)
    storage = STORAGES[method]
    draw = torch.Generator().manual_seed(0)
    for name in tensors:
        module = name.removesuffix(".weight")
        if not re.match(r"(thinker\.)?model\.layers\.", name) or not module.endswith(tuple(LINEARS)):
            continue
        weight = published.pop(name)
        O, C = weight.shape
        group_of = torch.arange(C) // group
        if shuffled:  # another order for every layer that has its inputs to itself
            draw = torch.Generator().manual_seed(len(module) if module.endswith("up_proj") else C)
            group_of = group_of[torch.randperm(C, generator=draw)]
        scale = torch.stack([weight[:, group_of == g].abs().amax(1) / 7 for g in range(C // group)], 1)
        scale = 2.0 ** scale.clamp_min(1e-8).log2().ceil()  # so that half precision and bfloat16 hold all exactly
        zeros = torch.randint(6, 10, scale.shape, generator=draw)
        values = (weight / scale[:, group_of] + zeros[:, group_of]).round().clamp(0, 15)
        plain[name] = (values - zeros[:, group_of]) * scale[:, group_of]
        published[f"{module}.scales"] = scale.t().contiguous().half()
        published[f"{module}.qweight"] = words(values.t(), 0 if storage.packs_inputs else 1, storage.order)
        published[f"{module}.qzeros"] = words(zeros.t() - storage.zero_offset, 1, storage.order)
        if method != "awq":
            published[f"{module}.g_idx"] = group_of.int()
        if module.endswith("o_proj"):  # some makers give every layer a bias
            published[f"{module}.bias"] = torch.zeros(O)
    return tuple({name: tensor.contiguous() for name, tensor in held.items()} for held in (published, plain))  # type: ignore[return-value]  # two of them


def publish(method: str, folder: Path, *, shuffled: bool = False, group: int = GROUP, **config: Any) -> tuple[Path, Path]:
    """The bundled checkpoint with its thinker's layers in a published layout, and the same with plain weights."""
    stored, meant = folder / "stored", folder / "meant"
    for place in (stored, meant):
        shutil.copytree(BUNDLED, place, ignore=shutil.ignore_patterns("eval", "model.safetensors", "voices.safetensors"))
    tensors = load_file(BUNDLED / "model.safetensors")
    for place, held in zip((stored, meant), publish_layers(tensors, method, group=group, shuffled=shuffled), strict=True):
        save_file(held, place / "model.safetensors")
    tree = json.loads((stored / "config.json").read_text())
    said = {"quant_method": method.removesuffix("_v2"), "bits": 4, "group_size": group}
    said |= {"version": "gemm", "zero_point": True} if method == "awq" else {"checkpoint_format": method}
    (stored / "config.json").write_text(json.dumps(tree | {"quantization_config": said | config}))
    return stored, meant


@pytest.mark.parametrize(
    ("method", "shuffled", "group"),
    [
        ("gptq", False, 64),
        ("gptq", True, 64),
        ("gptq_v2", False, 32),
        ("awq", False, 64),
        ("awq", False, 96),
        ("gptq", False, 192),
    ],
)
def test_published_weights_are_the_plain_ones(method: str, shuffled: bool, group: int, tmp_path: Path) -> None:
    stored, meant = publish(method, tmp_path, shuffled=shuffled, group=group)
    ours, truth = load(stored), load(meant)
    held = ours.model.thinker.decoder.layers[0].mlp.down_proj
    assert isinstance(held, PackedLinear) and not list(held.parameters())
    # many rows are multiplied in float32 by the very same weights, few with inputs and results in bfloat16
    many, few = logits(truth, 128), logits(truth, 8)
    assert float((logits(ours, 128) - many).norm() / many.norm()) < 1e-4
    assert (
        float((logits(ours, 8) - few).norm() / few.norm()) < 6 * 2.0**-8 * 2
    )  # three roundings in each of six layers, at random


def test_published_weights_with_a_rounded_talker(tmp_path: Path) -> None:
    stored, _ = publish("gptq", tmp_path)
    omni = load(stored, speech=True, weights="int8")
    kinds = {name: type(m.packed[0]).__name__ for name, m in omni.model.named_modules() if isinstance(m, PackedLinear)}
    thinker, talker = kinds["thinker.decoder.layers.0.mlp.down_proj"], kinds["talker.decoder.layers.0.mlp.down_proj"]
    assert thinker != talker
    sizes = sizes_of(build(omni.model.config), Checkpoint.open(stored), [torch.float32] * 2, "int8", read_published(stored))
    assert sizes["thinker"] < sizes_of(build(omni.model.config), Checkpoint.open(BUNDLED), [torch.float32] * 2)["thinker"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "bitsandbytes", "bits": 4}, "quantised by 'bitsandbytes'"),
        ({"quant_method": "compressed-tensors"}, "quantised by 'compressed-tensors'"),
        ({"bits": 4}, "quantised by ''"),
        ({"quant_method": "gptq", "bits": 8}, "gptq in 8 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "a layout of awq"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "a layout of gptq"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_methods_that_are_not_read(said: dict[str, Any], message: str, inside: bool, tmp_path: Path) -> None:
    tree: dict[str, Any] = {"thinker_config": {"text_config": {}}}
    (tree["thinker_config"]["text_config"] if inside else tree)["quantization_config"] = said
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=f"{message}.*; take one in 4 bits by GPTQ or AWQ"):
        read_published(tmp_path)


def test_plain_weights_are_not_published() -> None:
    assert read_published(BUNDLED) is None


O_PROJ = "thinker.model.layers.1.self_attn.o_proj"


def _put(leaf: str, *shape: int) -> Callable[[dict[str, Entry]], object]:
    dtype = torch.float16 if leaf == "scales" else torch.int32
    return lambda entries: entries.update({f"{O_PROJ}.{leaf}": Entry(shape, dtype, Path("none"), 0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop(f"{O_PROJ}.qzeros"), rf"{O_PROJ} has .* for 192 inputs.*: take one"),
        (_put("scales", 3, 8), rf"{O_PROJ} has .*scales \[3, 8\]"),
        (_put("scales", 0, 192), rf"{O_PROJ} has "),
        (_put("qweight", 12, 192), rf"{O_PROJ} has "),
        (_put("g_idx", 191), rf"{O_PROJ} has "),
        (lambda entries: entries.pop(f"{O_PROJ}.qweight"), rf"missing \({O_PROJ}.weight\)"),
        (_put("qbits", 1), rf"not used \({O_PROJ}.qbits\)"),
    ],
)
def test_published_tensors_that_do_not_fit(
    change: Callable[[dict[str, Entry]], object], message: str, stored: tuple[ModelConfig, Checkpoint, Published]
) -> None:
    config, checkpoint, published = stored
    entries = dict(checkpoint.entries)
    change(entries)
    with pytest.raises(CheckpointError, match=message):
        sizes_of(build(config), Checkpoint(entries), [torch.float32] * 2, "auto", published)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Checkpoint, Published]:
    folder, _ = publish("gptq", tmp_path_factory.mktemp("gptq"))
    known = read_published(folder)
    assert known
    return read_config(folder), Checkpoint.open(folder), known


@pytest.mark.parametrize("groups", [[0] * 128, [0] * 64 + [2] * 64, [0] * 65 + [1] * 63, [-1] + [0] * 63 + [1] * 64])
def test_groups_that_are_not_whole(groups: list[int]) -> None:
    part = Part(STORAGES["gptq"], {"qweight": (16, 8), "qzeros": (2, 1), "scales": (2, 8), "g_idx": (128,)})
    part.scales = nn.Parameter(torch.ones(2, 8))
    part.g_idx = nn.Parameter(torch.tensor(groups, dtype=torch.int32), requires_grad=False)
    with pytest.raises(CheckpointError, match="just 64 inputs into every group"):
        part.order()


# ---- models of text alone


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("variant", ["qwen2-untied", "qwen3-wide"])
def test_decoders_of_text_are_packed(variant: str, weights: str) -> None:
    plain, packed = text.loaded(variant), Omni.load(tiny(variant), dtype="float32", weights=weights, progress=False)
    names = {name for name, module in packed.model.named_modules() if isinstance(module, PackedLinear)}
    layers = range(plain.model.config.thinker.decoder.num_layers)
    linears = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    assert names == {"thinker.lm_head", *(f"thinker.decoder.layers.{i}.{linear}" for i in layers for linear in linears)}
    ids = torch.arange(40) * 5
    want, got = text.logits(plain, ids), text.logits(packed, ids)
    assert 0 < float((got - want).norm() / want.norm()) < FEWER_BITS[weights]


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("variant", ["qwen2-untied", "qwen3-wide"])
def test_text_published_in_four_bits(variant: str, method: str, tmp_path: Path) -> None:
    stored, meant = publish_text(variant, method, tmp_path)
    ours, truth = (Omni.load(folder, dtype="float32", progress=False) for folder in (stored, meant))
    assert isinstance(ours.model.thinker.decoder.layers[0].mlp.down_proj, PackedLinear)
    ids = torch.arange(128) % 250
    want = text.logits(truth, ids)
    assert float((text.logits(ours, ids) - want).norm() / want.norm()) < 1e-4


def publish_text(variant: str, method: str, folder: Path) -> tuple[Path, Path]:
    """A checkpoint with its decoder's layers in a published layout, and the same with plain weights."""
    stored, meant = make(variant, folder / "stored"), make(variant, folder / "meant")
    tensors = {name: t.float() for path in stored.glob("*.safetensors") for name, t in load_file(path).items()}
    packed, plain = publish_layers(tensors, method, group=32)
    for place, held in ((stored, packed), (meant, plain)):
        for path in (*place.glob("*.safetensors"), place / "model.safetensors.index.json"):
            path.unlink()
        save_file(held, place / "model.safetensors")
    tree = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps(tree | {"quantization_config": {"quant_method": method, "bits": 4}}))
    return stored, meant


# ---- memory


@pytest.mark.parametrize(("weights", "most"), [("int8", 16e9), ("int4", 12e9)])
def test_the_7b_with_speech_fits(weights: str, most: float, tmp_path: Path) -> None:
    config, checkpoint = published("7b", tmp_path)
    assert config.talker_decoder
    kept = [torch.bfloat16] * 2
    sizes = sizes_of(build(config), checkpoint, kept, weights)
    cache = CONVERSATION * sum(_kv_bytes(each, kept[0]) for each in (config.thinker.decoder, config.talker_decoder))
    assert most * 0.9 < sum(sizes.values()) + cache <= most


def test_sizes_of_the_7b_by_hand(tmp_path: Path) -> None:
    config, checkpoint = published("7b", tmp_path)
    whole, half = (sizes_of(build(config), checkpoint, [torch.bfloat16] * 2, weights) for weights in ("auto", "int8"))
    h, f, heads, vocab = 3584, 18944, 28 + 4 + 4, 152064
    layer = h * heads * 128 + 28 * 128 * h + 3 * h * f
    outputs = heads * 128 + h + 2 * f + h
    assert whole["thinker"] - half["thinker"] == 28 * (layer - 16 * outputs) + vocab * h - 16 * vocab
    assert whole["token2wav"] == half["token2wav"]


def test_doctor_plans_for_the_weights() -> None:
    def told(weights: str) -> str:
        console = Console(width=200, file=io.StringIO())
        assert examine(console, str(BUNDLED), "cpu", "float32", weights)
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]  # a StringIO

    assert "in float32, decoders in int4" in told("int4")
    assert "8,192 tokens of cache" in told("auto")
    with pytest.raises(OptionError):
        examine(Console(), None, "cpu", "auto", "int3")


def test_doctor_plans_for_what_a_gpu_records(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for name, found in (("pick_devices", (gpu, gpu)), ("_device", "a GPU"), ("_free", 1 << 40)):
        monkeypatch.setattr(doctor, name, lambda *_, found=found: found)
    console = Console(width=200, file=io.StringIO())
    assert examine(console, str(BUNDLED), "cuda", "float32")
    assert "recorded solves, up to" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


LOADER = """
import re, resource, sys, torch
from pathlib import Path
from torch import nn
import omni.loading.checkpoint
from omni.loading.checkpoint import Checkpoint, Layout, load
from omni.loading.packing import Packing

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the process was before exec
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

omni.loading.checkpoint.PIECE = 1 << 20
torch.set_num_threads(1)
with torch.device("meta"):
    layers = {f"{i}_proj": nn.Linear(4096, 4096, bias=False) for i in range(int(sys.argv[2]))}
    model = nn.ModuleDict({"thinker": nn.ModuleDict({"decoder": nn.ModuleDict(layers)})})
checkpoint = Checkpoint.open(Path(sys.argv[1]))
packing = Packing(model, checkpoint, Layout(), weights="int4", published=None)
before = peak()
cpu = torch.device("cpu")
load(model, checkpoint, packing.layout, dtype_of=lambda name: torch.bfloat16, device_of=lambda name: cpu,
     arrived=packing.arrived)
print(peak() - before, sum(packing.kept.values()))
"""


def test_layers_are_packed_one_by_one(tmp_path: Path) -> None:
    layers, size = 12, 2 << 24
    header = {
        f"thinker.decoder.{i}_proj.weight": {
            "dtype": "BF16", "shape": [4096, 4096], "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(layers)
    }  # fmt: skip
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + layers * size)  # a hole reads as zeros and takes no disk
    run = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path), str(layers)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    peak, kept = map(int, run.stdout.split())
    assert kept <= peak < kept + 5 * size < layers * size  # a layer as it was read, and what rounds and packs its blocks


def test_plans_without_packing_are_as_before() -> None:
    omni = load(speech=True)
    todo = plan(build(omni.model.config), Checkpoint.open(BUNDLED), LAYOUT)
    assert sum(todo.sizes(lambda name: torch.float32).values()) == sum(p.nbytes for p in omni.model.parameters())
