"""What is here, what a checkpoint needs, and what is missing."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from omni.api import CACHE_TOKENS
from omni.engine.features import MAX_BYTES
from omni.errors import OmniError
from omni.events import Capabilities
from omni.families import Family, family_of, read_config
from omni.kernels.native import build as native
from omni.loading.checkpoint import DTYPES, Checkpoint, check_values, find, plan
from omni.loading.device import has_fast_bfloat16, pick_devices, pick_dtype
from omni.loading.gguf import is_gguf
from omni.loading.gguf_blocks import KEPT, BlockPart
from omni.loading.gptq_awq import Published, read_published
from omni.loading.json import damage_told
from omni.loading.model import open_checkpoint, read_senses, read_speakers, read_words
from omni.loading.packing import Packing, check_weights
from omni.models.config import DecoderConfig, ModelConfig
from omni.models.model import OmniModel, is_voice
from omni.talker.flow import PUBLISHED
from omni.talker.vocoder import MOST_SHAPES

PACKAGES = ("omni-runtime", "torch", "triton", "safetensors", "tokenizers", "av", "soundfile", "soxr", "pillow", "numpy")
OPTIONAL = {"triton": "comes with CUDA builds of torch on Linux; a CPU needs none"}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
GIB = 2**30
MOST_CHARS = 2000
"""Of a finding: it may quote what a file says."""
LOOKED_AT = 1 << 20
"""Bytes of each tensor, to see whether it holds numbers."""
CONVERSATION = 8192
"""Tokens of a talk with one person, for which the cache of a CPU grows."""


def examine(console: Console, model: str | None, device: str, dtype: str, weights: str = "auto") -> bool:
    """Print the findings; whether everything needed is there."""
    check_weights(weights)
    missing: list[str] = []
    table = Table(title="this machine", show_header=False, title_justify="left")
    table.add_row("python", platform.python_version())
    for name in PACKAGES:
        try:
            table.add_row(name, version(name))
        except PackageNotFoundError:
            table.add_row(name, f"not installed ({OPTIONAL.get(name, 'needed')})")
            if name not in OPTIONAL:
                missing.append(f"{name}: pip install {name}")
    for module in ("av", "soundfile", "soxr"):
        try:
            import_module(module)
        except (ImportError, OSError) as e:
            missing.append(f"{module} cannot be imported ({e}): pip install --force-reinstall {module}")
    table.add_row("C kernels", escape(native.status()))
    places = pick_devices(device)
    for place in dict.fromkeys(places):
        table.add_row("device", _device(place))
        free = _free(place)
        table.add_row("memory", "unknown" if free is None else f"{free / GIB:.1f} GiB free")
    console.print(table)
    if model is not None:
        missing += _checkpoint(console, model, places, dtype, weights)
    for line in missing:
        console.print("[bold red]missing[/]", escape(line[:MOST_CHARS]), soft_wrap=True)
    if not missing:
        console.print("nothing is missing" + ("" if model else "; give --model to check a checkpoint"))
    return not missing


def _device(place: torch.device) -> str:
    if place.type == "cuda":
        return f"{place}, {torch.cuda.get_device_name(place)}"
    return f"cpu, {torch.get_num_threads()} threads, bfloat16 in hardware: {'yes' if has_fast_bfloat16() else 'no'}"


def _free(place: torch.device) -> int | None:
    """Bytes that can still be had; None where the system does not tell."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def weights_sizes(
    family: Family,
    net: OmniModel,
    checkpoint: Checkpoint,
    kept: Sequence[torch.dtype],
    weights: str = "auto",
    published: Published | None = None,
    *,
    exact: bool = False,
) -> dict[str, int]:
    """Bytes of each part's weights once they are loaded; the model is on meta, and stays there.

    kept: the dtypes that thinker and voice run in; exact: as for `Packing`.

    CheckpointError, OptionError as loading raises them.
    """
    packing = Packing(net, checkpoint, family.layout(net.config), weights=weights, published=published, exact=exact)
    todo = plan(net, checkpoint, packing.layout)
    return todo.sizes(lambda name: family.dtype_of(name, kept[is_voice(name)], torch.float32), packing.kept)


def _checkpoint(
    console: Console, model: str, places: tuple[torch.device, torch.device], dtype: str, weights: str
) -> list[str]:
    """Print a checkpoint's memory plan for the devices of thinker and voice; what it lacks."""
    try:
        folder = find(model)
        family, config = family_of(folder), read_config(folder)
        kept = [pick_dtype(dtype, config.dtype, place) for place in places]
        with damage_told(str(folder)):
            checkpoint = open_checkpoint(folder, config, family.layout(config))
            net = family.build(config)
            published = read_published(folder)
            sizes = weights_sizes(family, net, checkpoint, kept, weights, published, exact=dtype == "float32")
            check_values(checkpoint, LOOKED_AT)
    except OmniError as e:
        return [str(e)]
    console.print(f"{family.name}: {_abilities(config)}", highlight=False)
    for line in _conversions(net, checkpoint, kept[0], weights) if is_gguf(folder) else ():
        console.print(line, highlight=False, soft_wrap=True)
    names = " and ".join(dict.fromkeys(str(each).removeprefix("torch.") for each in kept))
    if published or weights != "auto":
        names += f", decoders in {weights if weights != 'auto' else 'int4 as published'}"
    table = Table(title=f"memory plan for {escape(str(folder))} in {names}", title_justify="left")
    table.add_column("part")
    table.add_column("device")
    table.add_column("GiB", justify="right")
    need = dict.fromkeys(places, 0)
    for part, size in sizes.items():
        place = places[is_voice(f"{part}.")]
        table.add_row(part, str(place), f"{size / GIB:.2f}")
        need[place] += size
    table.add_row("weights in all", "", f"{sum(sizes.values()) / GIB:.2f}", style="bold")
    most = dict(need)
    few = dict(need)
    decoders = (("thinker", config.thinker.decoder), ("talker", config.talker_decoder))
    for (name, decoder), place, dtype_there in zip(decoders, places, kept, strict=True):
        if decoder:
            size = CACHE_TOKENS * _kv_bytes(decoder, dtype_there)
            table.add_row(f"{name} cache, up to {CACHE_TOKENS:,} tokens", str(place), f"{size / GIB:.2f}")
            most[place] += size
            few[place] += size * CONVERSATION // CACHE_TOKENS
    if config.thinker.media:
        table.add_row("rows of media seen or heard lately, up to", str(places[0]), f"{MAX_BYTES / GIB:.2f}")
        most[places[0]] += MAX_BYTES
    if net.token2wav:
        size = net.token2wav.code2wav_dit_model.past_size(PUBLISHED) * torch.float32.itemsize
        table.add_row("vocoder's past, for each speech at once", str(places[1]), f"{size / GIB:.2f}")
        most[places[1]] += size
        few[places[1]] += size
        if places[1].type == "cuda":
            size *= 2 * MOST_SHAPES  # what a record reads stays, and what it writes
            table.add_row("recorded solves, up to", str(places[1]), f"{size / GIB:.2f}")
            most[places[1]] += size
    for place, size in few.items():
        table.add_row(f"weights and {CONVERSATION:,} tokens of cache", str(place), f"{size / GIB:.2f}", style="bold")
    for place, size in most.items():
        table.add_row("in all, at most", str(place), f"{size / GIB:.2f}", style="bold")
    console.print(table)
    missing = list(_files(folder, family, config))
    for place, size in need.items():
        free = _free(place)
        if free is not None and free < size:
            missing.append(
                f"memory: the weights need {size / GIB:.1f} GiB and {free / GIB:.1f} GiB are free on {place}; take a "
                "smaller checkpoint, weights='int8' or 'int4', speech=False, or another device"
            )
    return missing


def _conversions(net: OmniModel, checkpoint: Checkpoint, dtype: torch.dtype, weights: str) -> Iterator[str]:
    """What becomes of the tensors of a GGUF, and how they are rounded; the model on meta knows which stay in blocks."""
    known = (entry.form.name if entry.form else NAMES[entry.dtype] for entry in checkpoint.entries.values())
    found, kept = Counter(known), sum(isinstance(module, BlockPart) for module in net.modules())
    if kept:
        yield f"{kept} tensors in {KEPT} stay in four bits; their scales are rounded from float16 to bfloat16"
    found[KEPT] -= kept
    name = str(dtype).removeprefix("torch.")
    then = f", and linear layers are rounded to {weights} then" if weights != "auto" else ""
    for form, number in found.items():
        if number:
            exact = form == NAMES[dtype] or dtype == torch.float32
            yield f"{number} tensors in {form} become {name}, {'exactly' if exact else 'rounded'}{then}"


def _abilities(config: ModelConfig) -> str:
    """What a model can do, and what it cannot."""
    thinker = config.thinker
    can = Capabilities(thinker.audio is not None, thinker.vision is not None, config.talker is not None)
    senses = [verb for verb in ("hears", "sees", "speaks") if getattr(can, verb)]
    told = ", ".join(["reads and writes text", *senses])
    return f"{told}; it does not {can.lacks}" if can.lacks else told


def _kv_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def _files(folder: Path, family: Family, config: ModelConfig) -> Iterator[str]:
    """What cannot be read beside the weights."""
    readers = (
        lambda: read_words(folder, family, config),
        lambda: read_senses(folder, config),
        lambda: read_speakers(folder, config),
    )
    for read in readers:
        try:
            with damage_told(str(folder)):
                read()
        except OmniError as e:
            yield str(e)
