"""Checkpoints made to hang, to take all memory, to die or to answer nonsense: each is one CheckpointError, soon."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni import Omni
from omni.cli.doctor import examine
from omni.errors import CheckpointError
from tests.oracle.make_tiny_text import make
from tests.oracle.tiny import tiny

SECONDS = 10
ROOM = 1 << 30
Spoil = Callable[[Path], None]
HUGE = 10**9


def in_json(name: str, *path: str, value: Any) -> Spoil:
    """A value of a JSON file, by its path; `...` takes it out."""

    def spoil(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        node = tree
        for key in path[:-1]:
            node = node[key]
        if value is ...:
            del node[path[-1]]
        else:
            node[path[-1]] = value
        (folder / name).write_text(json.dumps(tree))

    return spoil


def config(key: str, value: Any) -> Spoil:
    return in_json("config.json", *key.split("."), value=value)


def text(name: str, content: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def template(source: str) -> Spoil:
    return text("chat_template.jinja", source)


def weights(change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors")

    return spoil


def header(change: Callable[[dict[str, Any]], object], grow: int = 0) -> Spoil:
    """The header of the weights, their bytes left as they are."""

    def spoil(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        tree = json.loads(data[8 : 8 + length])
        change(tree)
        raw(json.dumps(tree).encode(), data[8 + length :] + bytes(grow))(folder)

    return spoil


def raw(head: bytes, data: bytes = b"", length: int | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        size = struct.pack("<Q", len(head) if length is None else length)
        (folder / "model.safetensors").write_bytes(size + head + data)

    return spoil


def instead(name: str, put: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        put(folder / name)

    return spoil


def first(held: dict[str, Any], part: str) -> str:
    return next(name for name in held if part in name)


def poison(part: str, value: float) -> Spoil:
    def change(held: dict[str, Tensor]) -> None:
        held[first(held, part)].view(-1)[-1] = value

    return weights(change)


def entry(key: str, value: Any) -> Spoil:
    return header(lambda tree: tree[first(tree, "layers")].update({key: value}))


def overlap(tree: dict[str, Any]) -> None:
    places: dict[int, str] = {}
    for name, item in tree.items():
        if name != "__metadata__":
            size = item["data_offsets"][1] - item["data_offsets"][0]
            if size in places:
                item["data_offsets"] = tree[places[size]]["data_offsets"]
                return
            places[size] = name


def tokens(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tree = json.loads((folder / "tokenizer.json").read_text())
        change(tree)
        (folder / "tokenizer.json").write_text(json.dumps(tree))

    return spoil


def index(place: str) -> Spoil:
    """An index instead of the weights."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": ' + place + "}}")

    return spoil


NESTED = "[" * 200_000 + "]" * 200_000
TEXT: dict[str, Spoil] = {
    "config: a pipe": instead("config.json", os.mkfifo),
    "config: a device": instead("config.json", lambda path: path.symlink_to("/dev/zero")),
    "config: a folder": instead("config.json", Path.mkdir),
    "config: a link to itself": instead("config.json", lambda path: path.symlink_to(path)),
    "config: nested": text("config.json", '{"model_type": ' + NESTED + "}"),
    "config: no UTF-8": text("config.json", b'{"model_type": "\xff"}'),
    "config: a list": text("config.json", "[]"),
    "config: large": lambda folder: os.truncate(folder / "config.json", 1 << 30),
    **{
        f"config: {key} {str(value)[:40]}": config(key, value)
        for key, value in (
            ("num_hidden_layers", HUGE), ("num_hidden_layers", 1000), ("num_hidden_layers", 0), ("num_hidden_layers", -1),
            ("num_hidden_layers", 2.5), ("hidden_size", HUGE), ("hidden_size", 2**62), ("hidden_size", 0),
            ("hidden_size", -64), ("num_attention_heads", 0), ("num_attention_heads", HUGE), ("num_key_value_heads", 0),
            ("num_key_value_heads", 3),
            ("intermediate_size", 2**40), ("vocab_size", 2**40), ("vocab_size", 0), ("vocab_size", [1]), ("head_dim", HUGE),
            ("head_dim", 0), ("head_dim", 7), ("rms_norm_eps", float("nan")), ("rms_norm_eps", 0), ("rms_norm_eps", 1e30),
            ("rope_theta", float("inf")), ("rope_theta", 0), ("max_position_embeddings", 0),
            ("max_position_embeddings", 2**62), ("eos_token_id", 2**40), ("eos_token_id", [0] * 100_000),
            ("model_type", {}), ("hidden_act", NESTED), ("rope_scaling", {"rope_type": "yarn", "factor": float("nan")}),
        )
    },
    "weights: a pipe": instead("model.safetensors", os.mkfifo),
    "weights: a device": instead("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
    "weights: nested header": raw(b'{"a": ' + NESTED.encode() + b"}"),
    "weights: a header of nothing": raw(b"{}"),
    "weights: a header without end": raw(b"{", length=2**63),
    "weights: a header of zeros": lambda folder: os.truncate(folder / "model.safetensors", 1 << 34),
    "weights: a million entries": raw(json.dumps({f"{i}": 0 for i in range(1_000_000)}).encode()),
    "weights: float offsets": entry("data_offsets", [0.0, 64.0]),
    "weights: offsets from behind": entry("data_offsets", [-64, 0]),
    "weights: large offsets": entry("data_offsets", [2**62, 2**62 + 64]),
    "weights: a float shape": entry("shape", [1.5, 2]),
    "weights: a negative shape": entry("shape", [-1, -64]),
    "weights: a shape of many axes": entry("shape", [1] * 100_000),
    "weights: a shape beyond 64 bits": entry("shape", [2**40, 2**40]),
    "weights: of another dtype": entry("dtype", "I64"),
    "weights: of an unknown dtype": entry("dtype", ["F32"]),
    "weights: that share bytes": header(overlap),
    "weights: a NaN": poison("layers.0.mlp", float("nan")),
    "weights: infinite": poison("layers.0.self_attn", float("inf")),
    "weights: a NaN in a norm": poison("input_layernorm", float("nan")),
    "weights: a NaN in the embedding": poison("embed_tokens", float("nan")),
    "template: loops": template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
    "template: multiplies": template("{{ 'x' * 9999999999 }}"),
    "template: a width": template("{{ '%9999999999d' % 1 }}"),
    "template: a power": template("{{ 9 ** 99999999 }}"),
    "template: recursion": template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    "template: a pipe": instead("chat_template.jinja", os.mkfifo),
    "template: large": template("x" * (2 << 20)),
    "template: no jinja": template("{% for %}"),
    "tokenizer: a pipe": instead("tokenizer.json", os.mkfifo),
    "tokenizer: ids without a row": tokens(lambda tree: tree["model"]["vocab"].update({"zzzz": 5_000_000})),
    "tokenizer: an added id without a row": tokens(lambda tree: tree["added_tokens"][0].update({"id": 4_000_000_000})),
    "tokenizer: no merges": tokens(lambda tree: tree["model"].update({"merges": [["no", "such"]]})),
    "tokenizer: nested": text("tokenizer.json", '{"model": ' + NESTED + "}"),
    "tokenizer: a normaliser of another kind": tokens(lambda tree: tree.update({"normalizer": {"type": "Nothing"}})),
    "generation: an id without a row": text("generation_config.json", '{"eos_token_id": 99999999}'),
    "generation: a pipe": instead("generation_config.json", os.mkfifo),
    "index: a shard elsewhere": index('"../../etc/passwd"'),
    "index: nested": index(NESTED),
}  # fmt: skip


def voices(change: Callable[[Any], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        data = torch.load(folder / "spk_dict.pt", weights_only=True)
        change(data)
        torch.save(data, folder / "spk_dict.pt")

    return spoil


def zip_bomb(folder: Path) -> None:
    with (
        zipfile.ZipFile(folder / "spk_dict.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("archive/data.pkl", "w") as out,
    ):
        for _ in range(300):
            out.write(bytes(1 << 20))


SPEAKING: dict[str, Spoil] = {
    "voices: a bomb": zip_bomb,
    "voices: a view of one value": voices(lambda data: data["Ethan"].update(ref_mel=torch.zeros(1).expand(1, HUGE, 80))),
    "voices: a NaN": voices(lambda data: data["Ethan"]["cond"].fill_(float("nan"))),
    "voices: a pipe": instead("spk_dict.pt", os.mkfifo),
    **{
        f"config: {key} {str(value)[:40]}": config(key, value)
        for key, value in (
            ("thinker_config.audio_config.encoder_layers", HUGE), ("thinker_config.audio_config.n_window", HUGE),
            ("thinker_config.audio_config.d_model", HUGE), ("thinker_config.vision_config.depth", HUGE),
            ("thinker_config.vision_config.spatial_merge_size", 0), ("thinker_config.vision_config.patch_size", 0),
            ("thinker_config.vision_config.window_size", 1), ("thinker_config.image_token_index", 10**7),
            ("talker_config.num_hidden_layers", HUGE), ("talker_config.tts_codec_mask_token_id", -1),
            ("token2wav_config.bigvgan_config.upsample_rates", [1] * 10_000),
            ("token2wav_config.bigvgan_config.upsample_rates", [10**6, 10**6]),
            ("token2wav_config.dit_config.repeats", HUGE), ("token2wav_config.dit_config.enc_channels", [HUGE] * 3),
        )
    },
    "preprocessor: a rate": in_json("preprocessor_config.json", "sampling_rate", value=0),
    "preprocessor: a hop": in_json("preprocessor_config.json", "hop_length", value=HUGE),
    "preprocessor: deviations": in_json("preprocessor_config.json", "image_std", value=[0, 0, 0]),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make("qwen2", tmp_path_factory.mktemp("written"))
    held: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        held |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(held, folder / "model.safetensors")
    return folder


@contextmanager
def within(seconds: int, room: int) -> Iterator[None]:
    """Fails what takes longer, or more memory on top."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = _status("VmRSS")
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert _status("VmHWM") - began < room


def _status(name: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(f"{name}:") + 1]) * 1024


def refused(folder: Path) -> None:
    with within(SECONDS, ROOM), pytest.raises(CheckpointError):
        Omni.load(folder, device="cpu", dtype="float32", progress=False)
    told = io.StringIO()
    with within(SECONDS, ROOM):
        assert not examine(Console(file=told, width=400), str(folder), "cpu", "float32")
    assert "missing" in told.getvalue()


@pytest.mark.parametrize("spoil", TEXT.values(), ids=TEXT)
def test_a_hostile_text_model(spoil: Spoil, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "hostile")
    spoil(folder)
    refused(folder)


@pytest.mark.parametrize("spoil", SPEAKING.values(), ids=SPEAKING)
def test_a_hostile_model_that_speaks(spoil: Spoil, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("odd"), tmp_path / "hostile")
    spoil(folder)
    refused(folder)


def test_logits_that_are_no_numbers_are_no_answer(written: Path, tmp_path: Path) -> None:
    """Weights that are numbers, and too large to compute with."""
    folder = shutil.copytree(written, tmp_path / "large")
    weights(lambda held: [held[name].fill_(1e38) for name in held if "mlp" in name])(folder)
    omni = Omni.load(folder, device="cpu", dtype="float32", progress=False)
    with pytest.raises(CheckpointError, match="first logits"):
        omni.generate([{"role": "user", "content": "Hello"}], max_tokens=3)
