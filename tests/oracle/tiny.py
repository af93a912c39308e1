"""Tiny checkpoints for tests, built once a run, and transformers' model of them, loaded once a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING, AutoConfig
from transformers.utils import logging

from omni.loading.checkpoint import BUNDLED
from tests import sharing
from tests.oracle import make_tiny_text
from tests.oracle.files import token
from tests.oracle.make_tiny_omni import (
    GEOMETRIES,
    NUM_CODES,
    SPECIAL_TOKENS,
    STRAY_KEY,
    VOCAB,
    Geometry,
    make,
)

__all__ = [
    "GEOMETRIES",
    "NUM_CODES",
    "SPECIAL_TOKENS",
    "STRAY_KEY",
    "VOCAB",
    "Geometry",
    "make",
    "reference",
    "tiny",
    "token",
]

logging.disable_progress_bar()


@cache
def tiny(geometry: str, seed: int = 0, ends: bool = False) -> Path:
    """A checkpoint folder, the same for the whole run and gone after it; "bundled" is the trained one of the package."""
    if geometry == "bundled":
        return BUNDLED
    return sharing.made_once(f"tiny/{geometry}-{seed}-{ends}", lambda folder: _make(geometry, folder, seed, ends))


def _make(geometry: str, folder: Path, seed: int, ends: bool) -> Path:
    if geometry not in make_tiny_text.VARIANTS:
        return make(geometry, folder, seed, ends)
    assert not ends, "a text model of random weights runs to the limit it is given"
    return make_tiny_text.make(geometry, folder, seed)


@cache
def reference(folder: Path, dtype: torch.dtype | None = None, attention: str = "sdpa") -> Any:
    """transformers' model of a folder, in eval mode; in the dtype the folder states when None.

    token2wav stays float32 whatever the dtype. It is shared by all who ask: leave it as it was.
    """
    kind = type(AutoConfig.from_pretrained(folder))
    table = MODEL_FOR_MULTIMODAL_LM_MAPPING if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING else MODEL_FOR_CAUSAL_LM_MAPPING
    return table[kind].from_pretrained(folder, dtype=dtype or "auto", attn_implementation=attention).eval()
