"""The header of a GGUF file (version 2 and 3, little-endian), read within bounds.

Own code, since the `gguf` package trusts what a file says: a count of 2**60 items it tries to list. What is read here takes
memory in proportion to a header of at most MAX_HEADER bytes, whatever the file claims.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omni.errors import CheckpointError

MAX_HEADER = 64 << 20
"""Bytes; that of a model with 152,000 tokens has 6 million."""
MOST_ITEMS = 1 << 20
"""Of all lists together: tokens, their kinds and merges of a large vocabulary are half a million."""
MOST_TENSORS, MOST_KEYS = 1 << 16, 1 << 12
MAX_DIMS, MAX_NAME, MOST_ALIGNMENT = 4, 256, 1 << 20
ALIGNMENT = 32
"""Where the file does not say."""
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT, STRING, LIST = 6, 8, 9


@dataclass(frozen=True)
class Form:
    """How a kind of tensor is stored: so many values in a block of so many bytes."""

    name: str
    values: int
    nbytes: int


FORMS = {
    0: Form("F32", 1, 4), 1: Form("F16", 1, 2), 30: Form("BF16", 1, 2),
    2: Form("Q4_0", 32, 18), 3: Form("Q4_1", 32, 20), 6: Form("Q5_0", 32, 22), 7: Form("Q5_1", 32, 24),
    8: Form("Q8_0", 32, 34),
    12: Form("Q4_K", 256, 144), 13: Form("Q5_K", 256, 176), 14: Form("Q6_K", 256, 210),
}  # fmt: skip
"""By ggml's number."""


@dataclass(frozen=True)
class Tensor:
    """`shape` has outputs first, as torch has it; `start` is the place in the file."""

    shape: tuple[int, ...]
    form: Form
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.form.values * self.form.nbytes


@dataclass(frozen=True)
class Header:
    """Attributes:
    metadata: strings, numbers and lists of these by key.
    tensors: by name.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and path.is_file()


def read_header(path: Path) -> Header:
    """The header of a file; CheckpointError where it is damaged, cut short or of a kind that is not read."""
    try:
        info = path.stat()
        return _read(path, info.st_size, info.st_mtime_ns)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}); fetch it again") from e
    except (ValueError, struct.error) as e:  # a text that is no UTF-8 too
        raise CheckpointError(f"{path} has a damaged header ({str(e)[:300]}); fetch it again") from e


@lru_cache(maxsize=1)  # config, tokenizer and tensors are read one after the other
def _read(path: Path, size: int, changed: int) -> Header:
    with path.open("rb") as file:
        reader = _Reader(file, min(size, MAX_HEADER), size > MAX_HEADER)
        if reader.bytes(4) != b"GGUF":
            raise ValueError("it does not begin as a GGUF")
        if (version := reader.number("I")) not in (2, 3):
            raise ValueError(f"version {version}; 2 and 3 are read, little-endian")
        num_tensors, num_keys = reader.count(MOST_TENSORS, 24, "Q"), reader.count(MOST_KEYS, 13, "Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = reader.text(1 << 16)
            if key in metadata:
                raise ValueError(f"two values of {key!r}")
            metadata[key] = reader.value(reader.number("I"))
        found = [_tensor(reader) for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            raise ValueError(f"an alignment of {alignment!r}")
        begin = file.tell() + -file.tell() % alignment
    tensors: dict[str, Tensor] = {}
    end = begin
    for name, shape, form, offset in sorted(found, key=lambda item: item[3]):
        tensor = Tensor(shape, form, begin + offset)
        if name in tensors:
            raise ValueError(f"two tensors of the name {name!r}")
        if offset % alignment or tensor.start < end:
            raise ValueError(
                f"{name} begins at byte {tensor.start}, within another tensor or not at a multiple of {alignment}"
            )
        end = tensor.start + tensor.nbytes
        tensors[name] = tensor
    if end > size:
        raise CheckpointError(f"{path} is cut short: it has {size} bytes, and its tensors end at {end}; fetch it again")
    return Header(metadata, tensors)


def _tensor(reader: _Reader) -> tuple[str, tuple[int, ...], Form, int]:
    name = reader.text(MAX_NAME)
    shape = tuple(reader.number("Q") for _ in range(reader.count(MAX_DIMS, 8, "I")))[::-1]
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in FORMS:
        known = ", ".join(form.name for form in FORMS.values())
        raise ValueError(f"{name} is stored in ggml's kind {kind}; read are {known}")
    form = FORMS[kind]
    if not shape or min(shape) < 1 or shape[-1] % form.values:
        raise ValueError(f"{name} has the shape {list(shape)} in {form.name}")
    return name, shape, form, offset


class _Reader:
    """Takes values from a file, none of them beyond `end`."""

    def __init__(self, file: BinaryIO, end: int, is_longer: bool) -> None:
        self._file, self._left, self._items = file, end, MOST_ITEMS
        self._why = f"longer than {MAX_HEADER >> 20} MiB" if is_longer else "cut short"

    def bytes(self, num: int) -> bytes:
        if num > self._left:
            raise ValueError(self._why)
        self._left -= num
        if len(data := self._file.read(num)) < num:
            raise ValueError(self._why)
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}")))[0]

    def count(self, most: int, each: int, code: str) -> int:
        """A number of things that take so many bytes each at least."""
        num = int(self.number(code))
        if num > most or num * each > self._left:
            raise ValueError(f"{num} of what there are up to {min(most, self._left // each)}")
        return num

    def text(self, most: int = MAX_HEADER) -> str:
        return self.bytes(self.count(most, 1, "Q")).decode()

    def value(self, kind: int) -> Any:
        """One value; numbers of a list come as a tuple."""
        if kind == STRING:
            return self.text()
        if kind == FLOAT:  # the shortest number that is stored so: 1e-6, not 9.99999997e-7
            return float(str(np.float32(self.number("f"))))
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != LIST:
            raise ValueError(f"a value of kind {kind}")
        of = self.number("I")
        if of != STRING and of not in SCALARS:
            raise ValueError(f"a list of values of kind {of}")
        num = self.count(self._items, 8 if of == STRING else struct.calcsize(SCALARS[of]), "Q")
        self._items -= num
        if of == STRING:
            return [self.text() for _ in range(num)]
        return struct.unpack(f"<{num}{SCALARS[of]}", self.bytes(num * struct.calcsize(SCALARS[of])))
