"""What a stage is timed at, and what one row is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omni.bench.models import Shape
from omni.bench.timing import Run

F32, BF16 = torch.float32, torch.bfloat16
ROUNDING = {F32: 1e-4}
"""How far outputs may be apart, as a part of their RMS, through all layers."""
FEWER_BITS = {"int8": 0.2, "int4": 1.0}
"""How far random weights may be from what they were before they were rounded, through all layers."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        context: tokens in the cache before a step of thinker or talker.
        prompt: tokens of a prefill.
        sound: seconds that are heard.
        image: side of a picture in pixels.
        frames, long_frames: of log-mel, 100 a second, that are made at once.
        depth: layers of towers and growths, where a checkpoint does not say how many.
        distinct: layers of the thinker with weights of their own; the others have the same in turn.
    """

    context: int = 512
    prompt: int = 256
    sound: float = 10.0
    image: int = 448
    frames: int = 96
    long_frames: int = 1000
    depth: int = 8
    distinct: int = 6


@dataclass(frozen=True)
class Setting:
    shape: Shape
    device: torch.device
    dtype: torch.dtype
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True)
class Case:
    """One row to be.

    Attributes:
        ours, theirs: to be timed; theirs None without transformers. Of a growth: the shorter, and the longer.
        moved: bytes of weights and cache that a run has to read; operations: with weights, that it has to do.
        their_moved: bytes that a run of theirs has to read, where these are others.
        compare: the outputs are equal but for rounding, and no farther apart than `most`, in parts of their RMS.
    """

    name: str
    setting: str
    ours: Run
    theirs: Run | None
    dtype: torch.dtype
    moved: float = 0
    their_moved: float = 0
    operations: float = 0
    compare: bool = True
    most: float | None = None

    @property
    def allowed(self) -> float:
        return self.most or ROUNDING.get(self.dtype, 5e-2)


@dataclass(frozen=True)
class Weights:
    """Attributes:
    nbytes: of all of them, layers that share theirs counted as often as they are read.
    products: multiplications for one row.
    """

    nbytes: int
    products: int


def weights(module: nn.Module, without: str = "no such name") -> Weights:
    found = [p for name, p in module.named_parameters(remove_duplicate=False) if without not in name]
    return Weights(sum(p.nbytes for p in found), sum(p.numel() for p in found if p.ndim > 1))


def normal(*shape: int, s: Setting) -> Tensor:
    return torch.randn(*shape, device=s.device).to(s.dtype)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def distinct_of(s: Setting, layers: int) -> str:
    """How many layers have weights of their own, where not all do."""
    return f" ({s.sizes.distinct} of their own)" if not s.shape.folder and s.sizes.distinct < layers else ""


def depth_of(layers: int, s: Setting, part: str) -> str:
    whole = s.shape.depth(part)
    return f"{layers} of {whole} layers" if layers < whole else f"{layers} layers"
