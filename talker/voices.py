"""Voices: what a checkpoint knows of each of its speakers."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omni.errors import CheckpointError, VoiceError

PICKLED = "spk_dict.pt"
SAFE = "voices.safetensors"
MOST_BYTES = 256 << 20
"""Of all voices; the published ones take a quarter of a million."""
MIN_FRAMES = 5
"""Of a reference mel: the speaker encoder mirrors 4 frames at each edge."""

DAMAGE = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError,
    pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile,
)  # fmt: skip
"""How reading a damaged file, or one of another kind, may fail."""


@dataclass(frozen=True, eq=False)
class Voice:
    """One speaker.

    Attributes:
        bos_id: the text token that opens this speaker's turn in the talker.
        cond: float32 `[voice_dim]`, a speaker vector.
        ref_mel: float32 `[T, mel_dim]`, log-mel frames of a recording, T >= 5.
    """

    name: str
    bos_id: int
    cond: Tensor
    ref_mel: Tensor


def read_voices(folder: Path) -> dict[str, Voice]:
    """The voices of a checkpoint folder by name, in order, from `voices.safetensors`, or else from `spk_dict.pt`.

    CheckpointError when neither is there or the one read is damaged.
    """
    for path, read in ((folder / SAFE, _read_safe), (folder / PICKLED, _read_pickled)):
        if path.exists():
            try:
                return dict(sorted(read(path).items()))
            except DAMAGE as e:
                raise CheckpointError(f"{path} is damaged ({type(e).__name__}: {e}); fetch it again") from e
    raise CheckpointError(
        f"{folder} holds neither {SAFE} nor {PICKLED}, so nobody can speak; fetch one, or load without speech"
    )


def write_voices(folder: Path, voices: Mapping[str, Voice]) -> Path:
    """Write `voices.safetensors`, which needs no pickle to be read; returns its path."""
    tensors = {
        f"{v.name}.{part}": x.contiguous() for v in voices.values() for part, x in (("cond", v.cond), ("ref_mel", v.ref_mel))
    }
    path = folder / SAFE
    save_file(tensors, path, metadata={v.name: str(v.bos_id) for v in voices.values()})
    return path


def pick(voices: Mapping[str, Voice], name: str) -> Voice:
    """The voice of that name; VoiceError lists the known ones."""
    if name not in voices:
        raise VoiceError(f"no voice {name!r} here; known: {', '.join(sorted(voices)) or 'none'}")
    return voices[name]


def _read_safe(path: Path) -> dict[str, Voice]:
    with safe_open(path, framework="pt") as file:
        ids: dict[str, str] = file.metadata() or {}
        ids.pop("format", None)
        return {
            name: _voice(name, int(bos), file.get_tensor(f"{name}.cond"), file.get_tensor(f"{name}.ref_mel"))
            for name, bos in ids.items()
        }


def _read_pickled(path: Path) -> dict[str, Voice]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if (size := sum(item.file_size for item in file.infolist())) > MOST_BYTES:
                raise ValueError(f"{size} bytes once unpacked")
    data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # cond [1, voice_dim] and ref_mel [1, T, mel_dim] are stored as batches of one
    return {name: _voice(name, int(v["bos_token"]), v["cond"][0], v["ref_mel"][0]) for name, v in data.items()}


def _voice(name: str, bos_id: int, cond: Tensor, ref_mel: Tensor) -> Voice:
    # a view may show a few stored values as any number
    if cond.ndim != 1 or ref_mel.ndim != 2 or 4 * max(cond.numel(), ref_mel.numel()) > MOST_BYTES:
        raise ValueError(f"voice {name!r} has cond {list(cond.shape)} and ref_mel {list(ref_mel.shape)}")
    if len(ref_mel) < MIN_FRAMES:
        raise CheckpointError(
            f"voice {name!r} has a reference of {len(ref_mel)} mel frames; {MIN_FRAMES} or more are needed"
        )
    if not (cond.isfinite().all() and ref_mel.isfinite().all()):
        raise ValueError(f"voice {name!r} holds values that are no finite numbers")
    return Voice(name, bos_id, cond.float(), ref_mel.float())
