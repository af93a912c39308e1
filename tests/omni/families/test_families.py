"""The table of families: who is in it, and how somebody else's gets into it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from omni import Omni
from omni.errors import CheckpointError
from omni.families import FAMILIES, Family, family_of, read_config, text
from omni.loading.checkpoint import BUNDLED, Layout
from omni.models.decoder import STACKS
from tests.oracle.make_tiny_text import make
from tests.oracle.tiny import tiny

ASK = [{"role": "user", "content": "Hi."}]


def change(folder: Path, file: str, **keys: object) -> None:
    tree = json.loads((folder / file).read_text()) | keys
    (folder / file).write_text(json.dumps(tree))


def test_a_checkpoint_says_its_family() -> None:
    assert family_of(BUNDLED).name == "qwen2_5_omni"
    assert family_of(tiny("qwen2-yarn")).name == "qwen2"
    assert family_of(tiny("qwen3")).name == "qwen3"


@pytest.mark.parametrize("said", ["llama", None, 7, ["qwen2"]])
def test_an_unknown_family_is_named_beside_those_known(said: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": said}))
    for read in (family_of, read_config, Omni.load):
        with pytest.raises(CheckpointError) as e:
            read(tmp_path)
        assert repr(said) in str(e.value)
        assert all(repr(name) in str(e.value) for name in FAMILIES)


def test_a_family_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's own model, whose files name everything otherwise."""
    folder = make("qwen2-untied", tmp_path)
    want = Omni.load(folder, dtype="float32", progress=False).generate(ASK, max_tokens=8, temperature=0.0)
    words = {"model.embed_tokens.": "net.words.", "lm_head.": "net.last.", "model.": "net."}
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    for ours, theirs in words.items():
        tensors = {theirs + n[len(ours) :] if n.startswith(ours) else n: tensor for n, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    change(folder, "config.json", model_type="mine")

    prefixes = (("thinker.embed_tokens.", "net.words."), ("thinker.lm_head.", "net.last."), ("thinker.decoder.", "net."))
    mine = Family(
        name="mine",
        read=lambda c: text.read_text(c, qkv_bias=True),
        layout=lambda config: Layout(prefixes, STACKS),
        build=text.build,
        clock=text.clock,
    )
    monkeypatch.setitem(FAMILIES, mine.name, mine)

    reply = Omni.load(folder, dtype="float32", progress=False).generate(ASK, max_tokens=8, temperature=0.0)
    assert reply.done.token_ids == want.done.token_ids


@pytest.mark.parametrize(
    ("said", "stops"), [({"eos_token_id": [3, 7]}, (3, 7)), ({"eos_token_id": 5}, (5,)), ({}, (258,)), (None, (258,))]
)
def test_stops_are_those_of_the_generation_config(
    said: dict[str, object] | None, stops: tuple[int, ...], tmp_path: Path
) -> None:
    folder = make("qwen2", tmp_path)
    (folder / "generation_config.json").unlink()
    if said is not None:
        (folder / "generation_config.json").write_text(json.dumps(said))
    assert read_config(folder).thinker.eos_ids == stops


def test_stops_of_the_wrong_kind_are_named(tmp_path: Path) -> None:
    folder = make("qwen2", tmp_path)
    change(folder, "generation_config.json", eos_token_id=["<|im_end|>"])
    with pytest.raises(CheckpointError, match=r"generation_config\.json is damaged: eos_token_id"):
        read_config(folder)
