"""What a family of models is: a record of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from omni.loading.checkpoint import Layout
from omni.loading.json import Node
from omni.models.config import ModelConfig
from omni.models.model import OmniModel
from omni.prompt.positions import Clock


def in_one_dtype(name: str, dtype: torch.dtype, mel_dtype: torch.dtype) -> torch.dtype:
    """Every parameter in the dtype that the model runs in."""
    return dtype


@dataclass(frozen=True)
class Family:
    """Models whose `config.json` says one `model_type`.

    Attributes:
        name: the model_type.
        read: `config.json` -> facts; CheckpointError names what is missing or not supported.
        layout: where the model's parameters lie in the files.
        build: the model without weights (on the meta device); computed tables are real. Without the facts of a voice, it has
            none.
        clock: how positions go on, standing at the first.
        dtype_of: a parameter's name, the dtype that the model runs in, and the one for the vocoder's products of log-mel
            (its other parts compute in float32) -> the dtype it is kept in.
        speaking: the system prompt that the model was taught to speak with.
        hermes: it was taught to call functions in the form of Hermes, so that its template need not know tools.
    """

    name: str
    read: Callable[[Node], ModelConfig]
    layout: Callable[[ModelConfig], Layout]
    build: Callable[[ModelConfig], OmniModel]
    clock: Callable[[ModelConfig], Clock]
    dtype_of: Callable[[str, torch.dtype, torch.dtype], torch.dtype] = in_one_dtype
    speaking: str | None = None
    hermes: bool = False
