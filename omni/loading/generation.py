"""What a checkpoint says of how its answers are made: `generation_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.errors import CheckpointError, OptionError
from omni.kernels.sampling import Sampling
from omni.loading.json import is_there, read_json

FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationDefaults:
    """How a checkpoint's answers are made where the caller says nothing.

    Attributes:
        sampling: of text. Without `do_sample` it is greedy whatever temperature the file has, as in transformers; what the
            file does not say is off. Qwen2.5-Omni publishes a file that says nothing of sampling, so it is greedy.
        eos_ids: that end an answer; none where the file does not say, and `config.json` does.
    """

    sampling: Sampling
    eos_ids: tuple[int, ...]


def read_generation(folder: Path) -> GenerationDefaults:
    """What the file in a folder says, nothing where there is none; or CheckpointError."""
    path = folder / FILE
    said = {key: value for key, value in (read_json(path) if is_there(path) else {}).items() if value is not None}
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    sampling: dict[str, Any] = {"temperature": 1.0} | {name: said[name] for name in names if name in said}
    if not said.get("do_sample"):
        sampling["temperature"] = 0.0
    try:
        return GenerationDefaults(Sampling(**sampling), _eos_ids(said))
    except OptionError as e:
        raise CheckpointError(f"{path} is damaged: {e}") from e


def _eos_ids(said: Mapping[str, Any]) -> tuple[int, ...]:
    """One id or a list."""
    ids = said.get("eos_token_id", [])
    ids = ids if isinstance(ids, list) else [ids]
    if not all(isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids):
        raise OptionError(f"eos_token_id is {ids!r}; give ids")
    return tuple(ids)
