"""Linear layers in the weights that a device reads fastest, packed while a checkpoint is loaded.

Packed are the decoder layers of thinker and talker, their heads, and the flow-matching blocks of the vocoder; embeddings,
towers and all else of the vocoder stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from omni.errors import OptionError
from omni.kernels.linear import linear as multiply
from omni.kernels.linear import pack
from omni.kernels.quantised import GROUP, Weight, quantise_int4, quantise_int8
from omni.loading.checkpoint import Checkpoint, Layout
from omni.loading.gguf_blocks import KEPT, BlockPart
from omni.loading.gptq_awq import Part, Published
from omni.models.decoder import STACKS
from omni.talker.dit import LinearGelu

WEIGHTS = ("auto", "int8", "int4")
HEADS = ("thinker.lm_head", "talker.codec_head")
LINEARS = re.compile(r"(thinker|talker)\.(decoder\..*_proj|lm_head|codec_head)")
FLOW = re.compile(r"token2wav\.code2wav_dit_model\.transformer_blocks\..*\.(to_[qkv]|to_out\.0|ff\.[03])")
SINGLE = ("self_attn.o_proj", "mlp.down_proj", "lm_head")
Rule: TypeAlias = Callable[[Tensor], Weight]
"""Turns a weight `[O, C]` as it was loaded into what is kept of it."""


class PackedLinear(nn.Module):
    """A linear layer whose weight is loaded as it was stored, and then kept in another form.

    Until `pack`, its weight or its published parts are parameters like any other, and a checkpoint's keys are matched as
    strictly as elsewhere.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, rule: Rule, kept_bytes: Callable[[int, int], int] | None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = isinstance(linear, LinearGelu)
        self.parts = nn.ModuleList()
        self.order: list[Tensor | None] = []
        self.packed: list[Weight] = []
        self._rule, self._kept_bytes = rule, kept_bytes

    @classmethod
    def of_parts(cls, linear: nn.Linear, parts: Sequence[Part] | Sequence[BlockPart], *, has_bias: bool) -> PackedLinear:
        """One that is loaded from published parts, which make up its outputs in order."""
        self = cls(linear, pack, lambda outputs, inputs: sum(part.kept_bytes for part in parts))
        self.weight = None
        if has_bias and self.bias is None:
            self.bias = nn.Parameter(torch.empty(self.out_features, dtype=linear.weight.dtype), requires_grad=False)
        self.parts = nn.ModuleList(parts)
        return self

    @property
    def is_loaded(self) -> bool:
        """Whether all that makes up the weight is there."""
        return not self.packed and not any(p.is_meta for name, p in self.named_parameters() if name != "bias")

    @property
    def nbytes(self) -> int | None:
        """Bytes of the weight once it is packed, known before it is loaded; None where it will take as many as plainly."""
        return self._kept_bytes and self._kept_bytes(self.out_features, self.in_features)

    def pack(self) -> None:
        """Give up the loaded weight for its packed form."""
        if self.weight is not None:
            self.packed, self.order = [self._rule(self.weight.detach())], [None]
            self.weight = None
            return
        parts: list[Any] = list(self.parts)  # torch types what a module holds as Module
        self.parts = nn.ModuleList()
        for order, together in type(parts[0]).joined(parts):
            self.packed.append(pack(together))
            self.order.append(order)

    def forward(self, x: Tensor) -> Tensor:
        assert self.packed, "the checkpoint was not loaded through `Packing`"
        ins = [x if order is None else x[:, order] for order in self.order]
        if len(ins) == 1:
            return multiply(ins[0], self.packed[0], self.bias, gelu=self.gelu)
        assert not self.gelu, "layers with an activation are published whole"
        y = torch.cat([multiply(x, w) for x, w in zip(ins, self.packed, strict=True)], 1)
        return y if self.bias is None else y + self.bias


class Packing:
    """What is packed in a model, and how: prepares it before a checkpoint is loaded, and packs it meanwhile.

    Args:
        model: on meta. Its linear layers that gain are replaced.
        weights: "auto", "int8" or "int4"; heads take 8 bits in either. What was published in four bits stays so.
        exact: but for the blocks of a GGUF, which become what they mean: few rows by four bits are computed in bfloat16.
        flow: "auto" or "int8", of the vocoder's flow-matching blocks.
        published: how the checkpoint's weights are stored, None for plain tensors.
        gains: parameter name, inputs -> whether plain weights gain from packing where they will lie.

    Attributes:
        layout: the model's layout with the names of published parts.

    Raises:
        OptionError: there are no such weights.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        layout: Layout,
        *,
        weights: str,
        flow: str = "auto",
        exact: bool = False,
        published: Published | None,
        gains: Callable[[str, int], bool] = lambda name, inputs: False,
    ) -> None:
        check_weights(weights)
        self._linears: dict[str, PackedLinear] = {}
        holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        for name, linear in list(model.named_modules()):
            kind = kind_of(name, weights, flow)
            if not isinstance(linear, nn.Linear) or kind is None or holders[id(linear.weight)] > 1:
                continue
            stems = [key.removesuffix(".weight") for key in layout.keys(f"{name}.weight")]
            found = (checkpoint.entries.get(f"{stem}.weight") for stem in stems if not exact)
            blocks = [entry for entry in found if entry and entry.form and entry.form.name == KEPT]
            if published and all(f"{stem}.qweight" in checkpoint.entries for stem in stems):
                parts = [published.part(stem, linear.in_features, checkpoint) for stem in stems]
                has_bias = all(f"{stem}.bias" in checkpoint.entries for stem in stems)
                packed = PackedLinear.of_parts(linear, parts, has_bias=has_bias)
            elif len(blocks) == len(stems) and all(e.shape[1:] == (linear.in_features,) for e in blocks):
                kept = [BlockPart(e.shape[0], linear.in_features) for e in blocks]
                packed = PackedLinear.of_parts(linear, kept, has_bias=linear.bias is not None)
            elif kind == "auto" and not gains(name, linear.in_features):
                continue
            else:
                packed = PackedLinear(linear, *RULES[kind])
            model.set_submodule(name, packed)
            self._linears[name] = packed
        self.layout = layout
        if any(linear.parts for linear in self._linears.values()):
            table = STACKS | {name: (name,) for name in SINGLE}
            parts_of = {f"{ours}.parts.{i}": (key,) for ours, keys in table.items() for i, key in enumerate(keys)}
            self.layout = replace(layout, stacks={**layout.stacks, **parts_of})

    @property
    def kept(self) -> dict[str, int]:
        """Bytes of each weight that packing makes smaller, by the module that holds it."""
        return {name: linear.nbytes for name, linear in self._linears.items() if linear.nbytes is not None}

    def arrived(self, name: str) -> None:
        """Pack the layer that this parameter completes; told after every parameter by `omni.loading.checkpoint.load`."""
        module = next((name[:i] for i in _dots(name) if name[:i] in self._linears), None)
        if module and not name.endswith(".bias") and self._linears[module].is_loaded:
            self._linears[module].pack()


def kind_of(name: str, weights: str, flow: str = "auto") -> str | None:
    """Which of `RULES` a linear layer of that name is packed by; None where it stays as it is. Arguments as of `Packing`."""
    if FLOW.fullmatch(name):
        return flow
    if not LINEARS.fullmatch(name):
        return None
    return "int8" if weights == "int4" and name in HEADS else weights


def pack_linears(model: nn.Module, weights: str) -> None:
    """Pack every linear layer of a model that has its weights already."""
    check_weights(weights)
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear):
            packed = PackedLinear(linear, *RULES[weights])
            packed.pack()
            model.set_submodule(name, packed)


def check_weights(weights: str) -> None:
    """OptionError where there are no such weights."""
    if weights not in WEIGHTS:
        raise OptionError(f"{weights!r} are no weights; give {', '.join(map(repr, WEIGHTS))}")


def _dots(name: str) -> Iterator[int]:
    return (found.start() for found in re.finditer(r"\.", name))


def _bytes_int8(outputs: int, inputs: int) -> int:
    return outputs * (inputs + 16)  # values, a scale, and on a CPU a zero and two sums


def _bytes_int4(outputs: int, inputs: int) -> int:
    groups = -(-inputs // GROUP)
    return outputs * groups * (GROUP // 2 + 4)  # pairs, and two halves of scale and zero


RULES: dict[str, tuple[Rule, Callable[[int, int], int] | None]] = {
    "auto": (pack, None),
    "int8": (lambda weight: pack(quantise_int8(weight)), _bytes_int8),
    "int4": (lambda weight: pack(quantise_int4(weight)), _bytes_int4),
}
