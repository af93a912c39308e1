"""Headers of GGUF files that are damaged or lie end in an error that says so, without memory taken."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni.errors import CheckpointError
from omni.loading.checkpoint import Checkpoint
from omni.loading.gguf import read_header

HUGE = 1 << 60
MOST = 8 << 20
"""Bytes that reading a small file may take at most."""


def text(value: str | bytes, claimed: int | None = None) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data) if claimed is None else claimed) + data


def u32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def listed(of: int, num: int, data: bytes = b"") -> bytes:
    return text("list") + struct.pack("<IIQ", 9, of, num) + data


def tensor(name: str, offset: int = 0, dims: tuple[int, ...] = (8, 4), kind: int = 0, num_dims: int | None = None) -> bytes:
    count = len(dims) if num_dims is None else num_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


def gguf(*parts: bytes, keys: int = 0, tensors: int = 0, version: int = 3, magic: bytes = b"GGUF", room: int = 256) -> bytes:
    head = magic + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    return head + bytes(-len(head) % 32) + bytes(room)


FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "another file": (gguf(magic=b"PK\3\4"), "begin"),
    "big-endian": (gguf(version=0x03000000), "version"),
    "version 1": (gguf(version=1), "version 1"),
    "huge count of tensors": (gguf(tensors=HUGE), "up to"),
    "huge count of keys": (gguf(keys=HUGE), "up to"),
    "more tensors than bytes": (gguf(tensors=5000), "up to"),
    "huge key": (gguf(text("k", HUGE), keys=1), "up to"),
    "huge text": (gguf(text("k") + struct.pack("<IQ", 8, HUGE), keys=1), "up to"),
    "key that is no text": (gguf(text(b"\xff\xfe") + struct.pack("<II", 4, 1), keys=1), "utf-8"),
    "key twice": (gguf(u32("a", 1), u32("a", 1), keys=2), "two values"),
    "kind of value": (gguf(text("k") + struct.pack("<I", 77), keys=1), "kind 77"),
    "huge list of texts": (gguf(listed(8, HUGE), keys=1), "up to"),
    "huge list of numbers": (gguf(listed(4, HUGE), keys=1), "up to"),
    "list longer than the file": (gguf(listed(10, 100_000), keys=1), "up to"),
    "list of lists": (gguf(listed(9, 1, struct.pack("<IQ", 9, 1) * 2000), keys=1, room=1 << 16), "kind 9"),
    "list of no kind": (gguf(listed(99, 0), keys=1), "kind 99"),
    "alignment 0": (gguf(u32("general.alignment", 0), keys=1), "alignment"),
    "alignment 24": (gguf(u32("general.alignment", 24), keys=1), "alignment"),
    "alignment of a text": (gguf(text("general.alignment") + struct.pack("<I", 8) + text("x"), keys=1), "alignment"),
    "huge alignment": (gguf(u32("general.alignment", 1 << 31), keys=1), "alignment"),
    "overlap": (gguf(tensor("a"), tensor("b", 96), tensors=2), "within another"),
    "off the alignment": (gguf(tensor("a", 8), tensors=1), "multiple of 32"),
    "beyond the end": (gguf(tensor("a", HUGE), tensors=1), "cut short"),
    "cut short": (gguf(tensor("a"), tensors=1, room=64), "cut short"),
    "huge shape": (gguf(tensor("a", dims=(HUGE, HUGE)), tensors=1), "cut short"),
    "empty shape": (gguf(tensor("a", dims=(8, 0)), tensors=1), "shape"),
    "no shape": (gguf(tensor("a", dims=()), tensors=1), "shape"),
    "many dims": (gguf(tensor("a", num_dims=HUGE >> 32), tensors=1), "up to"),
    "part of a block": (gguf(tensor("a", dims=(33, 2), kind=8), tensors=1), "Q8_0"),
    "kind of tensor": (gguf(tensor("a", kind=19), tensors=1), "kind 19"),
    "tensor twice": (gguf(tensor("a"), tensor("a", 128), tensors=2), "two tensors"),
    "two names for one": (gguf(tensor("output.weight"), tensor("lm_head.weight", 128), tensors=2), "mean the same"),
    "huge name": (gguf(tensor("a" * 300), tensors=1), "up to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told(fault: str, tmp_path: Path) -> None:
    data, told = FAULTS[fault]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=told) as error:
            Checkpoint.open(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_any_cut_and_any_bit(tmp_path: Path) -> None:
    """A file that is cut or bent anywhere is read or refused, never more."""
    whole = gguf(u32("n", 7), listed(8, 2, text("x") + text("y")), tensor("a"), tensor("b", 128), keys=2, tensors=2)
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    header = read_header(path)
    assert header.metadata == {"n": 7, "list": ["x", "y"]} and [t.shape for t in header.tensors.values()] == [(4, 8)] * 2
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(400):
        data = bytearray(whole)
        if trial < 200:
            data = data[: trial * len(whole) // 200]
        else:
            data[random.integers(len(whole) - 256)] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            read_header(path)
        except CheckpointError:
            refused += 1
    assert refused > 250


def test_every_kind_of_value(tmp_path: Path) -> None:
    values: list[tuple[int, str, Any]] = [
        (0, "B", 200), (1, "b", -3), (2, "H", 60000), (3, "h", -3), (4, "I", 4_000_000_000), (5, "i", -7), (6, "f", 0.5),
        (7, "?", True), (10, "Q", 1 << 63), (11, "q", -1 << 62), (12, "d", 0.1),
    ]  # fmt: skip
    parts = [text(str(kind)) + struct.pack(f"<I{code}", kind, value) for kind, code, value in values]
    parts += [text(f"l{kind}") + struct.pack(f"<IIQ2{code}", 9, kind, 2, value, value) for kind, code, value in values]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(*parts, keys=len(parts), version=2))
    for kind, _, value in values:
        assert read_header(path).metadata[str(kind)] == value
        assert read_header(path).metadata[f"l{kind}"] == (value, value)
