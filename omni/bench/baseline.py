"""transformers' modules on our weights: what ours are timed against, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omni.loading.checkpoint import Layout
from omni.models.decoder import Decoder
from omni.models.model import OmniModel
from omni.prompt.prompt import Prompt

try:
    import transformers
    from transformers.utils import logging
except ImportError:  # it is the oracle of tests and benches, and nothing else needs it
    transformers = None

INSTALLED = transformers is not None


def version() -> str | None:
    return str(transformers.__version__) if INSTALLED else None


def build(tree: Mapping[str, Any]) -> Any:
    """transformers' model of a config without weights (on the meta device); computed tables are real."""
    logging.set_verbosity_error()  # it warns of official configs: text ids of the talker lie outside its own vocabulary
    config = transformers.CONFIG_MAPPING[tree["model_type"]].from_dict(dict(tree))
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = _class_of(config)(config)
    for module in model.modules():
        for name, table in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty_like(table, device="cpu")
    for module in model.modules():
        model._init_weights(module)  # of tables; parameters are on meta
    return model.eval().requires_grad_(False)


def _class_of(config: Any) -> Any:
    """transformers' class of whole models with this config."""
    tables = (transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING, transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
    return next(table[type(config)] for table in tables if type(config) in table)


def share(ours: OmniModel, theirs: Any, layout: Layout, wanted: Callable[[str], bool]) -> None:
    """Make transformers' parameters views of ours, for those of our names that are wanted; tables move beside them.

    Its own biases that a checkpoint may lack are ours, which then are zeros.
    """
    known = dict(theirs.named_parameters(remove_duplicate=False))
    devices = set()
    for name, parameter in ours.named_parameters(remove_duplicate=False):
        if not wanted(name):
            continue
        devices.add(parameter.device)
        rows = parameter.data
        keys = layout.keys(name)
        for key in keys:
            length = known[key].shape[0] if key in known else len(parameter) // len(keys)
            part, rows = rows[:length], rows[length:]
            if key in known:
                _set(theirs, key, nn.Parameter(part.view(known[key].shape), requires_grad=False))
            else:
                assert layout.may_lack(key) and not part.any(), f"transformers has no {key}"
    for device in devices - {torch.device("cpu")}:
        for name, table in list(theirs.named_buffers()):
            _set(theirs, name, table.to(device))


def cache(model: Any, keys: Tensor, values: Tensor, blocks: Sequence[int], length: int) -> Any:
    """transformers' cache with the first rows of a sequence that lies in our blocks `[L, num_blocks, P, K, D]`."""
    made = transformers.DynamicCache(config=model.config)
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        rows = (x[blocks].flatten(0, 1)[:length].transpose(0, 1)[None].contiguous() for x in (k, v))  # [1, K, length, D]
        made.update(*rows, layer)
    return made


def positions(at: Tensor, decoder: Decoder) -> Tensor:
    """Positions `[3, N]` of one sequence as transformers' decoder takes them: without axes where all are alike."""
    return at[:, None] if any(decoder.config.axes) else at[:1]


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' model of a checkpoint's folder, all of it."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    whole = _class_of(transformers.AutoConfig.from_pretrained(folder))
    model = whole.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval().to(device)


def arguments(prompt: Prompt) -> dict[str, Any]:
    """What `generate` takes for a prompt of ours that holds stills and sounds, alone."""
    args: dict[str, Any] = {"input_ids": prompt.ids[None], "attention_mask": torch.ones_like(prompt.ids)[None]}
    if prompt.pictures:
        # without the prefix, transformers 5.17 hands the pixels to the talker as well, which rejects them
        args["thinker_pixel_values"] = torch.cat([picture.patches for picture in prompt.pictures])
        args["image_grid_thw"] = torch.tensor([picture.grid for picture in prompt.pictures])
    if mels := [sound.mel for sound in prompt.sounds]:
        lens = torch.tensor([mel.shape[1] for mel in mels])
        args["feature_attention_mask"] = (torch.arange(int(lens.max())) < lens[:, None]).long()
        args["input_features"] = torch.stack([nn.functional.pad(m, (0, int(lens.max()) - m.shape[1])) for m in mels])
    return args


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)
