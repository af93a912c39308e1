from __future__ import annotations

import gzip
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import omni.loading.checkpoint
from omni.errors import CheckpointError, DeviceError
from omni.families import read_config
from omni.families.qwen2_5_omni import LAYOUT as PUBLISHED
from omni.families.qwen2_5_omni import build, layout
from omni.families.qwen2_5_omni import dtype_of as kept_in
from omni.loading.checkpoint import DTYPES, Checkpoint, Entry, Layout, find, load, plan
from omni.models.config import ModelConfig

LAYOUT = Layout(
    prefixes=(("mind.", "thinker."), ("mind.ears.", "thinker.audio_tower."), ("wave.", "token2wav.")),
    stacks={"attn.qkv": ("attn.q", "attn.k", "attn.v"), "wave.attn.qkv": ("attn.to_q",)},
    zeros=("thinker.audio_tower.*.k.bias",),
    unused=("token2wav.*.inv_freq", "talker.*"),
)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.register_buffer("table", torch.arange(3.0, device="cpu"), persistent=False)


class Mind(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.ears = nn.ModuleDict({"block": Block()})
        self.block = Block()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight


class Toy(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.mind = Mind(tied)
        self.wave = nn.Conv1d(2, 3, 5)


def toy(tied: bool = False) -> Toy:
    with torch.device("meta"):
        return Toy(tied)


def tensors() -> dict[str, Tensor]:
    """What a checkpoint of the toy holds, with key rows fewer than query rows and one key more than needed."""
    draw = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"thinker.embed.weight": (6, 4), "thinker.head.weight": (6, 4)}
    for block in ("thinker.block", "thinker.audio_tower.block"):
        for part, rows in (("q", 4), ("k", 2), ("v", 2)):
            shapes |= {f"{block}.attn.{part}.weight": (rows, 4), f"{block}.attn.{part}.bias": (rows,)}
    del shapes["thinker.audio_tower.block.attn.k.bias"]
    held = {name: torch.randn(shape, generator=draw).bfloat16() for name, shape in shapes.items()}
    held["token2wav.weight"] = torch.randn(3, 2, 5, generator=draw)
    held["token2wav.bias"] = torch.randn(3, generator=draw)
    return held | {"token2wav.dit.inv_freq": torch.ones(2)}


def save(folder: Path, held: dict[str, Tensor], shards: int = 1) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    if shards == 1:
        save_file(held, folder / "model.safetensors")
        return Checkpoint.open(folder)
    place_of = {name: f"model-{i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(held)}
    for file in set(place_of.values()):
        save_file({name: held[name] for name in held if place_of[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": place_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint.open(folder)


def on_cpu(name: str) -> torch.device:
    return torch.device("cpu")


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name.startswith("wave.") else torch.bfloat16


@pytest.mark.parametrize("shards", [1, 3])
def test_open_reads_names_shapes_and_dtypes(shards: int, tmp_path: Path) -> None:
    held = tensors()
    held["scalar"] = torch.tensor(3, dtype=torch.int64)
    held["empty"] = torch.zeros(0, 4, dtype=torch.float16)
    checkpoint = save(tmp_path, held, shards)
    found = {name: (entry.shape, entry.dtype, entry.nbytes) for name, entry in checkpoint.entries.items()}
    assert found == {name: (tuple(t.shape), t.dtype, t.nbytes) for name, t in held.items()}
    assert checkpoint.nbytes == sum(t.nbytes for t in held.values())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("piece", [8, 24, 1 << 20])
def test_load(shards: int, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni.loading.checkpoint, "PIECE", piece)
    held, model, told = tensors(), toy(), list[tuple[int, int]]()
    load(
        model,
        save(tmp_path, held, shards),
        LAYOUT,
        dtype_of=dtype_of,
        device_of=on_cpu,
        progress=lambda *at: told.append(at),
    )
    want = {name.replace("thinker.", "mind.").replace("token2wav.", "wave."): tensor for name, tensor in held.items()}
    for ours, theirs in (
        ("mind.block.attn", "thinker.block.attn"),
        ("mind.ears.block.attn", "thinker.audio_tower.block.attn"),
    ):
        for leaf in ("weight", "bias"):
            parts = [held.get(f"{theirs}.{part}.{leaf}", torch.zeros(2)) for part in "qkv"]
            want[f"{ours}.qkv.{leaf}"] = torch.cat(parts)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype_of(name)
        assert not parameter.requires_grad
        assert torch.equal(parameter, want[name].to(parameter.dtype)), name
    assert torch.equal(model.get_buffer("mind.block.table"), torch.arange(3.0))
    total = sum(t.nbytes for name, t in held.items() if name != "token2wav.dit.inv_freq")
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_load_casts(dtype: torch.dtype, tmp_path: Path) -> None:
    held, model = tensors(), toy()
    load(model, save(tmp_path, held), LAYOUT, dtype_of=lambda name: dtype, device_of=on_cpu)
    assert torch.equal(model.wave.weight, held["token2wav.weight"].to(dtype))
    assert torch.equal(model.mind.embed.weight, held["thinker.embed.weight"].to(dtype))


def test_keys_take_the_longest_prefix_and_suffix() -> None:
    assert LAYOUT.keys("mind.ears.block.attn.qkv.bias") == tuple(
        f"thinker.audio_tower.block.attn.{part}.bias" for part in "qkv"
    )
    assert LAYOUT.keys("mind.earshot.weight") == ("thinker.earshot.weight",)
    assert LAYOUT.keys("wave.attn.qkv.weight") == tuple(f"token2wav.attn.{part}.weight" for part in "qkv")
    assert LAYOUT.keys("x.wave.attn.qkv.weight") == ("x.attn.to_q.weight",)
    assert LAYOUT.keys("mind.flattn.qkv.weight") == ("thinker.flattn.qkv.weight",)
    assert LAYOUT.keys("other") == ("other",)


def test_plan_says_all_that_does_not_fit(tmp_path: Path) -> None:
    held = tensors()
    del held["thinker.embed.weight"], held["thinker.block.attn.k.bias"]
    held["thinker.block.attn.v.weight"] = torch.zeros(3, 4)
    held["thinker.block.attn.q.bias"] = torch.zeros(5)
    held["token2wav.bias"] = torch.zeros(3, dtype=torch.int32)
    held |= {f"spare.{i}": torch.zeros(1) for i in range(11)}
    model = toy()
    with pytest.raises(CheckpointError) as e:
        load(model, save(tmp_path, held), LAYOUT, dtype_of=dtype_of, device_of=on_cpu)
    said = str(e.value)
    assert "2 missing (thinker.block.attn.k.bias, thinker.embed.weight)" in said
    assert "11 not used (spare.0, spare.1" in said
    assert "and 3 more" in said
    assert "2 of another shape" in said
    assert "thinker.block.attn.v.weight [3, 4] float32 for mind.block.attn.qkv.weight [8, 4]" in said
    assert "token2wav.bias [3] int32 for wave.bias [3]" in said
    assert all(parameter.is_meta for parameter in model.parameters())


def test_plan_does_not_stack_other_widths(tmp_path: Path) -> None:
    held = tensors() | {"thinker.block.attn.k.weight": torch.zeros(2, 5), "thinker.block.attn.v.bias": torch.zeros(2, 1)}
    with pytest.raises(CheckpointError, match="2 of another shape"):
        plan(toy(), save(tmp_path, held), LAYOUT)


def test_zeros_stand_for_named_keys_only(tmp_path: Path) -> None:
    held = tensors()
    del held["thinker.audio_tower.block.attn.k.weight"]
    with pytest.raises(CheckpointError, match=r"2 missing \(thinker.audio_tower.block.attn.k.weight, .*k.bias\)"):
        plan(toy(), save(tmp_path / "a", held), LAYOUT)
    full = tensors() | {"thinker.audio_tower.block.attn.k.bias": torch.ones(2)}
    model = toy()
    load(model, save(tmp_path / "b", full), LAYOUT, dtype_of=dtype_of, device_of=on_cpu)
    assert model.get_parameter("mind.ears.block.attn.qkv.bias")[4:6].tolist() == [1, 1]


@pytest.mark.parametrize("held_twice", [True, False])
def test_tied(held_twice: bool, tmp_path: Path) -> None:
    held, model = tensors(), toy(tied=True)
    if not held_twice:
        del held["thinker.head.weight"]
    load(model, save(tmp_path, held), LAYOUT, dtype_of=dtype_of, device_of=on_cpu)
    assert torch.equal(model.mind.embed.weight, held["thinker.embed.weight"])
    assert model.mind.head.weight is model.mind.embed.weight


def test_a_head_that_is_not_tied_must_be_held(tmp_path: Path) -> None:
    held = tensors()
    del held["thinker.head.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(thinker.head.weight\)"):
        plan(toy(), save(tmp_path, held), LAYOUT)


def test_a_part_of_the_model_takes_a_part_of_the_checkpoint(tmp_path: Path) -> None:
    model = toy()
    del model.wave
    layout = Layout(LAYOUT.prefixes, LAYOUT.stacks, LAYOUT.zeros, ("token2wav.*",))
    todo = plan(model, save(tmp_path, tensors()), layout)
    assert todo.sizes(lambda name: torch.float32) == {"mind": 4 * sum(p.numel() for p in model.parameters())}
    assert todo.read_bytes == sum(t.nbytes for name, t in tensors().items() if name.startswith("thinker."))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(path: Path, **changes: Any) -> None:
    """Change the first tensor of a header, and leave the data as it is."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    next(iter(header.values())).update(changes)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda p: p.unlink(), "cannot be read"),
    "cut short": (cut, "but its header says"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "but its header says"),
    "empty": (lambda p: p.write_bytes(b""), "cut short"),
    "cut in the header": (lambda p: p.write_bytes(p.read_bytes()[:40]), "cut short"),
    "a pointer of git-lfs": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "cut short"),
    "no JSON": (lambda p: p.write_bytes(p.read_bytes().replace(b"{", b"[", 1)), "damaged header"),
    "no object": (lambda p: p.write_bytes((2).to_bytes(8, "little") + b"[]"), "damaged header"),
    "of an unknown dtype": (lambda p: rewrite(p, dtype="F4"), "damaged header"),
    "of another size": (lambda p: rewrite(p, shape=[1, 1, 1]), "damaged header"),
    "before its data": (lambda p: rewrite(p, data_offsets=[-4, 0]), "damaged header"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named(kind: str, tmp_path: Path) -> None:
    save(tmp_path, tensors(), 3)
    damage, said = DAMAGE[kind]
    damage(tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=f"model-00001-of-00003.safetensors .*{said}.*fetch it again"):
        Checkpoint.open(tmp_path)


def test_a_shard_that_shrinks_later_is_named(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, tensors())
    cut(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="became shorter"):
        load(toy(), checkpoint, LAYOUT, dtype_of=dtype_of, device_of=on_cpu)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"weight_map": {"a": "model-00000-of-00003.safetensors"}}', "which does not hold it"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "outside its folder"),
        ('{"weight_map": ["a"]}', "damaged"),
        ('{"weight_map": {"a": 1}}', "damaged"),
        ('{"metadata": {}}', "damaged"),
        ("{", "damaged"),
    ],
)
def test_a_damaged_index_is_named(index: str, said: str, tmp_path: Path) -> None:
    save(tmp_path, tensors(), 3)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=rf"model.safetensors.index.json .*{said}"):
        Checkpoint.open(tmp_path)


def test_open_of_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"):
        Checkpoint.open(tmp_path)


def test_load_says_when_the_device_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, checkpoint, empty = toy(), save(tmp_path, tensors()), torch.empty

    def full(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs["dtype"] == torch.uint8:
            return empty(*args, **kwargs)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DeviceError, match=r"cpu is full; the weights alone need 0\.0 GiB"):
        load(model, checkpoint, LAYOUT, dtype_of=dtype_of, device_of=on_cpu)


LOADER = """
import re, resource, sys, torch
from pathlib import Path
from torch import nn
from omni.loading.checkpoint import Checkpoint, Layout, load

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the process was before exec
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

layers, rows = map(int, sys.argv[2:])
with torch.device("meta"):
    model = nn.ModuleList([nn.Linear(1 << 20, rows, bias=False) for _ in range(layers)])
before = peak()
folder, cpu = Path(sys.argv[1]), torch.device("cpu")
load(model, Checkpoint.open(folder), Layout(), dtype_of=lambda name: torch.bfloat16, device_of=lambda name: cpu)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("layers", "rows"), [pytest.param(2, 64, id="0.3 GB"), pytest.param(12, 64, id="1.6 GB", marks=pytest.mark.slow)]
)
def test_load_needs_little_memory_beside_the_weights(layers: int, rows: int, tmp_path: Path) -> None:
    size = layers * rows << 21
    header = {
        f"{i}.weight": {"dtype": "BF16", "shape": [rows, 1 << 20], "data_offsets": [i * rows << 21, (i + 1) * rows << 21]}
        for i in range(layers)
    }
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)  # a hole reads as zeros and takes no disk
    run = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path), str(layers), str(rows)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert size <= int(run.stdout) < size + 2 * omni.loading.checkpoint.PIECE


def test_find_takes_a_folder(tmp_path: Path) -> None:
    assert find(tmp_path) == find(str(tmp_path)) == tmp_path


def test_find_asks_the_hub_for_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find("Qwen/Qwen2.5-Omni-7B") == tmp_path
    assert {"*.safetensors", "spk_dict.pt", "merges.txt"} < set(asked["Qwen/Qwen2.5-Omni-7B"])


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "../up", "a/..", "~/none"])
def test_find_says_what_a_name_is_not(name: str) -> None:
    with pytest.raises(CheckpointError, match="no hub id"):
        find(name)


def test_find_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="give the folder"):
        find(tmp_path / "model.safetensors")


@pytest.mark.parametrize("error", [OSError("offline"), ValueError("bad name"), httpx.ConnectError("no route\nto host")])
def test_find_says_what_was_tried(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=r"some/model is no folder here.*hub.*give the folder") as e:
        find("some/model")
    assert "\n" not in str(e.value)


def test_sizes_of_the_toy_are_exact(tmp_path: Path) -> None:
    model = toy()
    sizes = plan(model, save(tmp_path, tensors()), LAYOUT).sizes(dtype_of)
    assert sizes == {
        "mind": 2 * sum(math.prod(p.shape) for p in model.mind.parameters()),
        "wave": 4 * sum(math.prod(p.shape) for p in model.wave.parameters()),
    }


DATA = Path(__file__).parents[2] / "data"
SIZES = ("7b", "3b")


def published(size: str, folder: Path) -> tuple[ModelConfig, Checkpoint]:
    """Config and tensor list of a published checkpoint, without its weights."""
    (folder / "config.json").write_bytes((DATA / f"qwen2_5_omni_{size}.config.json").read_bytes())
    manifest = json.loads(gzip.decompress((DATA / f"qwen2_5_omni_{size}.manifest.json.gz").read_bytes()))
    entries = {name: Entry(tuple(shape), DTYPES[dtype], Path("none"), 0) for name, (dtype, shape) in manifest.items()}
    return read_config(folder), Checkpoint(entries)


@pytest.mark.parametrize(
    ("size", "tensors", "parameters", "stored"),
    [("7b", 2448, 10_732_225_408 + 32, 22_362_553_344 + 128), ("3b", 2543, 5_537_120_640, 11_972_343_808)],
)
def test_manifests_have_the_published_sums(size: str, tensors: int, parameters: int, stored: int, tmp_path: Path) -> None:
    checkpoint = published(size, tmp_path)[1]
    assert len(checkpoint.entries) == tensors
    assert sum(math.prod(entry.shape) for entry in checkpoint.entries.values()) == parameters
    assert checkpoint.nbytes == stored


@pytest.mark.parametrize("size", SIZES)
def test_plan_of_the_published_checkpoints(size: str, tmp_path: Path) -> None:
    config, checkpoint = published(size, tmp_path)
    todo = plan(build(config), checkpoint, PUBLISHED)
    # bytes as in the files, less the two tensors that inference leaves
    left = sum(entry.nbytes for name, entry in checkpoint.entries.items() if PUBLISHED.leaves(name))
    assert todo.read_bytes == checkpoint.nbytes - left
    thinker, talker, wave = {
        "7b": (8_931_813_888, 1_351_360_256, 449_051_264),
        "3b": (4_703_464_448, 384_604_928, 449_051_264),
    }[size]
    unheard, no_bias = (
        2 * config.thinker.audio.output_dim,
        config.thinker.audio.d_model * config.thinker.audio.encoder_layers,
    )
    assert todo.sizes(lambda name: kept_in(name, torch.bfloat16, torch.float32)) == {
        "thinker": 2 * (thinker - unheard + no_bias), "talker": 2 * talker, "token2wav": 4 * wave,
    }  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_plan_of_the_published_checkpoints_without_speech(size: str, tmp_path: Path) -> None:
    config, checkpoint = published(size, tmp_path)
    config = config.without_voice()
    model = build(config)
    assert list(plan(model, checkpoint, layout(config)).sizes(lambda name: torch.bfloat16)) == ["thinker"]
    with pytest.raises(
        CheckpointError, match=r"^the checkpoint does not fit its config: \d+ not used \(talker\.codec_head\.weight"
    ):
        plan(model, checkpoint, PUBLISHED)


@pytest.mark.parametrize("size", SIZES)
def test_a_published_key_too_few_is_named(size: str, tmp_path: Path) -> None:
    config, checkpoint = published(size, tmp_path)
    model = build(config)
    keys = [name for name in checkpoint.entries if ".0." in name and not PUBLISHED.leaves(name)]
    for key in keys[:: len(keys) // 20]:
        rest = {name: entry for name, entry in checkpoint.entries.items() if name != key}
        with pytest.raises(CheckpointError, match=rf"1 missing \({re.escape(key)}\); fetch both again from one place$"):
            plan(model, Checkpoint(rest), PUBLISHED)


@pytest.mark.oracle
def test_manifests_are_what_transformers_builds() -> None:
    from tests.oracle.make_manifests import DATA, MODELS, packed

    for model in MODELS:
        assert gzip.decompress((DATA / f"{model}.manifest.json.gz").read_bytes()) == gzip.decompress(packed(model))
