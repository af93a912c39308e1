"""Checkpoints whose decoder was published in four bits, by GPTQ (arXiv 2210.17323) or AWQ (arXiv 2306.00978)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omni.errors import CheckpointError
from omni.kernels.quantised import Int4, from_values, group_size
from omni.loading.checkpoint import Checkpoint
from omni.loading.json import read_json

PER_WORD = 8
"""Values of four bits in an int32."""


@dataclass(frozen=True)
class Storage:
    """How a method stores w[o, c] = (value - zero) * scale.

    Attributes:
        packs_inputs: the words of `qweight` hold eight inputs of an output, `[C / 8, O]`; else eight outputs, `[C, O / 8]`.
        order: which of the eight each half byte holds, the lowest first.
        zero_offset: what is added to a stored zero.
    """

    packs_inputs: bool
    order: tuple[int, ...]
    zero_offset: int


IN_ORDER = tuple(range(PER_WORD))
STORAGES = {
    "gptq": Storage(True, IN_ORDER, 1),
    "gptq_v2": Storage(True, IN_ORDER, 0),
    "awq": Storage(False, (0, 2, 4, 6, 1, 3, 5, 7), 0),
}
LEAVES = ("qweight", "qzeros", "scales", "g_idx")
ADVICE = "take one in 4 bits by GPTQ or AWQ, or the unquantised checkpoint with weights='int8' or 'int4'"


@dataclass(frozen=True)
class Published:
    """How a checkpoint's quantised layers are stored, as its config says."""

    storage: Storage

    def part(self, stem: str, inputs: int, checkpoint: Checkpoint) -> Part:
        """The layer at a checkpoint's key, without its values; CheckpointError where its tensors do not fit together."""
        held = {leaf: e for leaf in LEAVES if (e := checkpoint.entries.get(f"{stem}.{leaf}"))}
        shapes = {leaf: entry.shape for leaf, entry in held.items()}
        scales, words = shapes.get("scales", ()), shapes["qweight"]
        outputs = words[-1] * (1 if self.storage.packs_inputs else PER_WORD)
        want = {
            "qweight": (inputs // PER_WORD, outputs) if self.storage.packs_inputs else (inputs, outputs // PER_WORD),
            "qzeros": (*scales[:1], outputs // PER_WORD),
            "scales": (*scales[:1], outputs),
            "g_idx": (inputs,),
        }
        lacking = [leaf for leaf in LEAVES[:3] if leaf not in held]
        wrong = [leaf for leaf, shape in shapes.items() if shape != want[leaf]]
        if lacking or wrong or not scales[0] or inputs % scales[0] or (inputs // scales[0]) % 32 or outputs % PER_WORD:
            told = ", ".join(f"{leaf} {list(shape)}" for leaf, shape in shapes.items())
            raise CheckpointError(
                f"{stem} has {told} for {inputs} inputs; omni reads 4 bits in groups of a multiple of 32 inputs: {ADVICE}"
            )
        return Part(self.storage, shapes)


class Part(nn.Module):
    """One published layer, on meta until it is loaded.

    Attributes:
        qweight, qzeros: int32 words of eight values.
        scales: float32 `[G, O]`.
        g_idx: the group of each input, int32 `[C]`; None where they are in order.
    """

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    g_idx: Tensor | None

    def __init__(self, storage: Storage, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.storage = storage
        if "g_idx" not in shapes:
            self.register_parameter("g_idx", None)
        for leaf, shape in shapes.items():
            empty = torch.empty(shape, dtype=torch.float32 if leaf == "scales" else torch.int32, device="meta")
            self.register_parameter(leaf, nn.Parameter(empty, requires_grad=False))

    @property
    def kept_bytes(self) -> int:
        groups, outputs = self.scales.shape
        inputs = self.inputs
        return outputs * (inputs // 2 + 4 * inputs // group_size(inputs // groups))

    @property
    def inputs(self) -> int:
        return self.qweight.shape[0] * (PER_WORD if self.storage.packs_inputs else 1)

    def values(self) -> Tensor:
        """Uint8 `[O, C]`."""
        axis = 0 if self.storage.packs_inputs else 1
        return _unpack(self.qweight, axis, self.storage.order).t()

    def zeros(self) -> Tensor:
        """Int32 `[O, G]`."""
        stored = _unpack(self.qzeros, 1, self.storage.order).t().int()
        return (stored + self.storage.zero_offset) & 15  # a stored 15 of GPTQ stands for -1

    def order(self) -> Tensor | None:
        """Inputs sorted by the group that each is in, int64 `[C]`; None where they are in order."""
        if self.g_idx is None:
            return None
        group_of, num_groups = self.g_idx.long(), len(self.scales)
        size = self.inputs // num_groups
        whole = bool((group_of >= 0).all() and (group_of < num_groups).all())
        if not whole or not (group_of.bincount(minlength=num_groups) == size).all():
            raise CheckpointError(f"a g_idx puts not just {size} inputs into every group; fetch the checkpoint again")
        order = group_of.argsort(stable=True)
        return None if torch.equal(order, torch.arange(len(order)).to(order)) else order

    @staticmethod
    def joined(parts: Sequence[Part]) -> Iterator[tuple[Tensor | None, Int4]]:
        """Weights of the parts, in order; neighbours whose inputs come in one order and in like groups are one weight."""
        run: list[Part] = []
        run_order: Tensor | None = None
        for part in parts:
            order = part.order()
            if run and not (_same(order, run_order) and len(part.scales) == len(run[0].scales)):
                yield run_order, _join(run, run_order)
                run = []
            run, run_order = [*run, part], order
        yield run_order, _join(run, run_order)


def _join(parts: Sequence[Part], order: Tensor | None) -> Int4:
    values = torch.cat([part.values() for part in parts])
    scale = torch.cat([part.scales.t() for part in parts])
    zeros = torch.cat([part.zeros() for part in parts])
    return from_values(values if order is None else values[:, order], scale, zeros)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _unpack(words: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """Uint8 values of int32 words, eight for one along the axis."""
    place = [order.index(i) for i in range(PER_WORD)]
    halves = torch.stack([(words >> 4 * at & 15).to(torch.uint8) for at in place], axis + 1)
    return halves.flatten(axis, axis + 1)


def read_published(folder: Path) -> Published | None:
    """How `config.json` says that the weights are stored; None where they are plain.

    CheckpointError names a method that omni does not read.
    """
    found = _said(read_json(folder / "config.json"))
    if not found:
        return None
    method = str(found.get("quant_method", "")).lower()
    bits, form = found.get("bits", found.get("w_bit")), str(found.get("checkpoint_format", method)).lower()
    if method not in ("gptq", "awq"):
        raise CheckpointError(
            f"config.json says that weights are quantised by {method!r}, which omni does not read; {ADVICE}"
        )
    if bits != 4:
        raise CheckpointError(f"config.json says {method} in {bits} bits, which omni does not read; {ADVICE}")
    if method == "awq":
        form = {"gemm": "awq"}.get(str(found.get("version", "gemm")).lower(), "")
    if form not in STORAGES:
        raise CheckpointError(f"config.json names a layout of {method} that omni does not read; {ADVICE}")
    return Published(STORAGES[form])


def _said(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config or one of its parts says of it."""
    found = node.get("quantization_config")
    parts = (part for part in node.values() if isinstance(part, Mapping))
    return found or next(filter(None, map(_said, parts)), {})
