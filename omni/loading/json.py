"""A checkpoint's JSON files, read so that what is missing or of the wrong kind is named."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omni.errors import CheckpointError
from omni.loading.bounds import check_bounds
from omni.loading.gguf import is_gguf
from omni.loading.gguf_files import files_in


class Node:
    """A JSON object that names the full path of a key it lacks."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self._data, self._path = data, path

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def child(self, key: str) -> Node:
        value = self[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._path}.{key} is no object; fetch it again")
        return Node(value, f"{self._path}.{key}")

    def part(self, key: str) -> Node:
        """A child that need not be there, and then has no keys."""
        return self.child(key) if key in self else Node({}, f"{self._path}.{key}")

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise CheckpointError(f"{self._path} lacks {key!r}; fetch it again, or see whether omni reads such a checkpoint")
        return self._data[key]

    def first(self, *keys: str) -> Any:
        """The value of the first key that is there."""
        return self[next((k for k in keys if k in self), keys[0])]

    def get(self, key: str, default: Any) -> Any:
        return self._data[key] if key in self else default

    def __getattr__(self, key: str) -> Any:
        return self[key]


MOST_BYTES = {".json": 32 << 20, ".jinja": 1 << 20, ".txt": 32 << 20, ".pt": 256 << 20}
"""Of a file, by the end of its name; of weights any number."""


def check_file(path: Path) -> None:
    """Raise CheckpointError for what is no file (reading a pipe or a device may never end), or too large for its kind."""
    try:
        info = path.stat()
    except OSError:
        return  # not there: whoever needs it says so
    if not stat.S_ISREG(info.st_mode):
        raise CheckpointError(f"{path} is no regular file; fetch the checkpoint again")
    if info.st_size > (most := MOST_BYTES.get(path.suffix, info.st_size)):
        raise CheckpointError(f"{path} has {info.st_size} bytes, and such files have up to {most}; fetch it again")


def is_there(path: Path) -> bool:
    """Whether a checkpoint has a file of JSON; a GGUF, which stands for a folder, says what some of them would."""
    return path.name in files_in(path.parent) if is_gguf(path.parent) else path.exists()


def read_json(path: Path) -> Mapping[str, Any]:
    """One JSON object from a checkpoint's file, or from what a GGUF says in its place."""
    if is_gguf(path.parent) and is_there(path):
        with damage_told(str(path.parent)):
            return files_in(path.parent)[path.name]()
    check_file(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(
            f"{path.name} cannot be read from {path.parent} ({e.strerror}); give a checkpoint's folder, or fetch it again"
        ) from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is not JSON ({e}); fetch it again") from e
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object; fetch it again")
    return data


@contextmanager
def damage_told(file: str) -> Iterator[None]:
    """CheckpointError where reading a file's values finds one of the wrong kind."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{file} holds a value of the wrong kind or size ({e}); fetch it again") from e


def check_kinds(record: Any) -> None:
    """Raise TypeError where JSON gave another kind than the record states, ValueError for a number that cannot be."""
    _check_types(record)
    check_bounds(record)


def _check_types(record: Any) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            _check_types(value)
            continue
        values = value if isinstance(value, tuple) else (value,)
        kind = str(field.type)
        wanted = {"int": int, "tuple[int, ...]": int, "float": float, "tuple[float, float, float]": float}.get(kind)
        if kind == "tuple[tuple[int, ...], ...]":
            wanted, values = int, tuple(v for part in values for v in part)
        for v in values if wanted else ():
            if isinstance(v, bool) or not isinstance(v, int | float if wanted is float else int):
                raise TypeError(f"{field.name} is {value!r}")


def ids_of(value: Any) -> tuple[int, ...]:
    """Ids of a key that holds one or a list."""
    return tuple(value) if isinstance(value, list) else (value,)
