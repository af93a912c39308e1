"""Which model is this: one record of functions for each model_type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omni.errors import CheckpointError
from omni.families import qwen2, qwen2_5_omni, qwen3
from omni.families.family import Family
from omni.loading.generation import read_generation
from omni.loading.json import Node, check_kinds, damage_told, read_json
from omni.models.config import ModelConfig

__all__ = ["FAMILIES", "Family", "config_in", "family_in", "family_of", "read_config"]

FAMILIES: dict[str, Family] = {family.name: family for family in (qwen2.FAMILY, qwen2_5_omni.FAMILY, qwen3.FAMILY)}
"""By model_type. Whoever has another family puts it in here before a checkpoint is loaded."""


def family_of(folder: Path) -> Family:
    """The family of a checkpoint's folder; CheckpointError names a model_type that is not known."""
    return family_in(read_json(folder / "config.json"))


def family_in(tree: Mapping[str, Any]) -> Family:
    """The family of a `config.json`; CheckpointError names a model_type that is not known."""
    kind = tree.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(map(repr, sorted(FAMILIES)))
        raise CheckpointError(f"config.json says model_type {kind!r}; omni reads {known}: take a checkpoint of one of these")
    return FAMILIES[kind]


def read_config(folder: Path) -> ModelConfig:
    """What a checkpoint's folder states; CheckpointError names what is missing.

    Ids that end a text are those of `generation_config.json`, and those of `config.json` only where it has none.
    """
    config = config_in(read_json(folder / "config.json"))
    if ids := read_generation(folder).eos_ids:
        return replace(config, thinker=replace(config.thinker, eos_ids=ids))
    return config


def config_in(tree: Mapping[str, Any]) -> ModelConfig:
    """What a `config.json` states."""
    with damage_told("config.json"):
        config = family_in(tree).read(Node(tree, "config.json"))
        check_kinds(config)
        return config
