"""What a server and a process that decodes tell each other: heads of JSON, some with bytes behind them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from omni.encoders.sampling import Sampling
from omni.encoders.sources import Budget

INVALID, TOO_LARGE = 400, 413
MOST_SENTENCES, MOST_CHARS = 20, 500
"""Told of one medium, and characters of each."""
MOST_HEAD = 1 << 14
"""Bytes of a head."""
WIDTH = 4
"""Bytes of its length, which stands before it."""


def write_head(file: BinaryIO, head: dict[str, Any]) -> None:
    file.write(head_bytes(head))


def head_bytes(head: dict[str, Any]) -> bytes:
    data = json.dumps(head).encode()
    return len(data).to_bytes(WIDTH, "little") + data


def read_head(file: BinaryIO) -> dict[str, Any]:
    """Empty at the end."""
    size = file.read(WIDTH)
    return dict(json.loads(file.read(int.from_bytes(size, "little")))) if size else {}


@dataclass(frozen=True)
class Task:
    """What to decode.

    Attributes:
        kind: "image", "audio" or "video".
        size: bytes that follow.
        cpu_seconds: in which it must be decoded.
        rate, origin, start, end: of a sound, as for `read_audio`.
        sampling: of a clip.
    """

    kind: str
    size: int
    budget: Budget
    cpu_seconds: float
    rate: int = 0
    origin: float | None = None
    start: float | None = None
    end: float | None = None
    sampling: Sampling | None = None

    def head(self) -> bytes:
        return head_bytes(asdict(self))

    @classmethod
    def read(cls, head: dict[str, Any]) -> Task:
        budget, sampling = Budget(**head.pop("budget")), head.pop("sampling")
        return cls(**head, budget=budget, sampling=Sampling(**sampling) if sampling else None)
