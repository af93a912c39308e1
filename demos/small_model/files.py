"""Files that a stop cannot leave half written, and the log of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from demos.small_model import BUILD


def save(data: object, path: Path) -> None:
    """`torch.save`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(data, part)
    part.replace(path)


def export(weights: Mapping[str, Tensor], path: Path) -> None:
    """Weights as float32 safetensors."""
    part = path.with_suffix(".part")
    save_file({key: w.detach().cpu().float().contiguous() for key, w in weights.items()}, part)
    part.replace(path)


def log(line: str) -> None:
    """To the terminal, and to the file that holds a line for each finished step."""
    print(line, flush=True)
    with (BUILD / "log.txt").open("a") as file:
        file.write(line + "\n")
