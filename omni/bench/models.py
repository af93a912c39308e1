"""Models in true shapes to be timed: with random weights, or with a checkpoint's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from omni.bench import baseline
from omni.errors import OptionError
from omni.families import config_in, family_in
from omni.kernels.linear import gains
from omni.loading.checkpoint import Checkpoint, Layout, load
from omni.loading.json import read_json
from omni.loading.packing import RULES, PackedLinear, kind_of
from omni.models.config import ModelConfig
from omni.models.model import OmniModel

SHAPES = Path(__file__).parent / "shapes"
DEPTHS = {
    "thinker.decoder.": ("thinker_config", "text_config", "num_hidden_layers"),
    "thinker.audio_tower.": ("thinker_config", "audio_config", "encoder_layers"),
    "thinker.visual.": ("thinker_config", "vision_config", "depth"),
    "talker.decoder.": ("talker_config", "num_hidden_layers"),
    "token2wav.code2wav_dit_model.": ("token2wav_config", "dit_config", "depth"),
}
"""Where a config says how many layers a part of ours has; a model of text alone has no objects around its keys."""
NOISE = 1 << 24
"""Normal numbers that all weights are taken from, each from its own place on: to draw more takes longer than to use them."""
STD = 0.02
"""Of random biases, and of logarithms."""


@dataclass(frozen=True)
class Shape:
    """A config to be timed, and the folder of its weights; None for random ones."""

    name: str
    tree: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def named(cls, name: str) -> Shape:
        """ "3b" or "7b" with random weights, or a checkpoint's folder with its own.

        OptionError where there is none.
        """
        if (SHAPES / f"{name}.json").exists():
            return cls(name, json.loads((SHAPES / f"{name}.json").read_text()))
        if (folder := Path(name).expanduser()).is_dir():
            return cls(folder.name, read_json(folder / "config.json"), folder)
        raise OptionError(f"{name!r} is no shape; give 3b, 7b or a checkpoint's folder")

    @property
    def config(self) -> ModelConfig:
        return config_in(self.tree)

    def depth(self, part: str) -> int:
        """Layers of a part, as the config has it."""
        node, last = place_of(self.tree, part)
        return int(node[last] if last in node else node["num_hidden_layers"])


@dataclass(frozen=True)
class Both:
    """Our model and transformers', if it is installed, with the same weights where `parts` are; all else is on meta."""

    ours: OmniModel
    theirs: Any

    @property
    def their_thinker(self) -> Any:
        """transformers' part that is our thinker; a model of text alone is all of it."""
        return getattr(self.theirs, "thinker", self.theirs)


@torch.inference_mode(False)  # weights made inside of it look to kernels as if they could change unseen
def both(
    shape: Shape,
    *parts: str,
    dtype: torch.dtype,
    device: torch.device,
    depth: int | None = None,
    distinct: int | None = None,
    seed: int = 0,
) -> Both:
    """The two models with weights for the parts whose names begin so, and with `depth` layers in the first part.

    distinct: layers that have weights of their own; the others share them in turn, which a cache does not notice as long
    as all of them together are far larger than it.
    """
    tree = shape.tree
    if depth is not None and not shape.folder:
        tree = shallower(tree, parts[0], min(depth, shape.depth(parts[0])))
    family, config = family_in(tree), config_in(tree)
    ours, layout = family.build(config), family.layout(config)
    if shape.folder:
        load(ours, Checkpoint.open(shape.folder), layout, dtype_of=lambda _: dtype, device_of=lambda _: device)
    else:
        _fill(ours, layout, parts, dtype, device, distinct, seed)
    for module in ours.modules():
        for name, table in list(module.named_buffers(recurse=False)):
            module._buffers[name] = table.to(device)
    theirs = None
    if baseline.INSTALLED:
        theirs = baseline.build(tree)
        baseline.share(ours, theirs, layout, lambda name: name.startswith(parts))
    return Both(ours, theirs)


def head_of(shape: Shape) -> tuple[str, ...]:
    """What names of the thinker's head begin with: it has two where it is tied."""
    return ("thinker.lm_head.", "thinker.embed_tokens.")[: 1 + shape.config.thinker.tie_word_embeddings]


def linears(model: OmniModel, part: str) -> dict[str, nn.Linear]:
    """The layers of a part (`thinker.`, `talker.`, `token2wav.`) that can be kept in other weights, by name."""
    found = model.named_modules(remove_duplicate=False)
    mine = ((n, m) for n, m in found if isinstance(m, nn.Linear) and n.startswith(part))
    return {n: m for n, m in mine if kind_of(n, "auto")}


def pack(model: OmniModel, found: Mapping[str, nn.Linear], weights: str) -> int:
    """Keep copies of the layers, as they are kept with these weights ("auto", "int8", "int4"); bytes of all that is read.

    The layers themselves stay as they are. Those that share their weights share the copy as well. "auto" leaves the layers
    where the device has no better form for them.
    """
    made: dict[int, PackedLinear] = {}
    nbytes = 0
    for name, linear in found.items():
        if weights == "auto" and not gains(linear.weight.dtype, linear.weight.device, linear.in_features):
            model.set_submodule(name, linear)
            nbytes += linear.weight.nbytes
            continue
        key = id(linear.weight)
        if key not in made:
            kind = kind_of(name, weights, weights)
            assert kind
            made[key] = PackedLinear(linear, *RULES[kind])
            made[key].pack()
        model.set_submodule(name, made[key])
        nbytes += sum(each.nbytes for each in made[key].packed)
    return nbytes


def shallower(tree: Mapping[str, Any], part: str, depth: int) -> Mapping[str, Any]:
    """The config with so many layers in a part."""
    whole = deepcopy(dict(tree))
    node, last = place_of(whole, part)
    # transformers does not read the published name of the flow-matching transformer's depth, but has 22 as a default
    node[last] = node["num_hidden_layers"] = depth
    if "layer_types" in node:  # transformers writes the kind of each
        node["layer_types"] = node["layer_types"][:depth]
    return whole


def place_of(tree: Mapping[str, Any], part: str) -> tuple[Any, str]:
    """The object of a config that says how many layers a part has, and its key there."""
    node: Any = tree
    *path, last = DEPTHS[part]
    for key in path:
        node = node.get(key, node)
    return node, last


def _fill(
    model: OmniModel,
    layout: Layout,
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
    distinct: int | None,
    seed: int,
) -> None:
    """Normal weights, norms of one, and keys without a bias where the published ones have none."""
    noise = torch.randn(NOISE, generator=torch.Generator(device).manual_seed(seed), device=device)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}
    for name, parameter in parameters.items():
        if not name.startswith(parts):
            continue
        first = id(parameters[_repeated(name, distinct)])
        if first not in made:
            made[first] = nn.Parameter(_random(name, parameter, layout, dtype, noise), requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made[first])


def _repeated(name: str, distinct: int | None) -> str:
    """The parameter whose weights this one has."""
    words = name.split(".")
    for i, word in enumerate(words):
        if distinct and word.isdigit() and words[i - 1] in ("layers", "blocks", "transformer_blocks"):
            words[i] = str(int(word) % distinct)
            break
    return ".".join(words)


def _random(name: str, like: Tensor, layout: Layout, dtype: torch.dtype, noise: Tensor) -> Tensor:
    weight = torch.empty(like.shape, dtype=dtype, device=noise.device)
    if like.ndim == 1 and name.endswith("weight"):
        return weight.fill_(1)
    # rows keep their size from layer to layer, as those of a trained model do
    std = like[0].numel() ** -0.5 if like.ndim > 1 else STD
    start = crc32(name.encode()) % (NOISE // 2)
    for part in weight.view(-1).split(NOISE // 2):
        torch.mul(noise[start:][: len(part)], std, out=part)
    keys = layout.keys(name)
    if any(layout.may_lack(key) for key in keys):
        for key, part in zip(keys, weight.chunk(len(keys)), strict=True):
            if layout.may_lack(key):
                part.zero_()
    return weight
