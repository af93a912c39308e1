"""The spoken side of an answer: what the voice's stage keeps of a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from omni.engine.block_manager import CachedSequence
from omni.talker.voice import TalkerState


@dataclass
class Relay:
    """Holds a thought back for as long as a stop string may still take its text back, so that nothing cut is spoken."""

    held: deque[tuple[Tensor, int]] = field(default_factory=deque)

    def put(self, thought: Tensor, num_made: int) -> None:
        """A thought `[C]`, and the characters that had been made with its token."""
        self.held.append((thought, num_made))

    def take(self, num_released: int) -> list[Tensor]:
        """The thoughts whose text has been let out."""
        out = []
        while self.held and self.held[0][1] <= num_released:
            out.append(self.held.popleft()[0])
        return out


@dataclass
class Speech:
    """The spoken side of an answer.

    Attributes:
        track, sound: the talker's state and the vocoder's own.
        max_frames: of speech.
        relay: thoughts that wait for their text to be let out.
        unheard: rows of the prompt that the talker hears and has not been handed.
        rows: `[n, C]` each, those that it was handed and has not read yet, in order.
        positions: `[A, N]`, of all rows of the prompt that it hears.
        block_keys: of whole blocks of these.
        position: of the next step, the same on all axes.
        due: when the sound that was delivered will have been played; None before the first.
        ended: no more frames will come.
    """

    track: TalkerState
    sound: Any
    max_frames: int
    sample_rate: int
    cache: CachedSequence = field(default_factory=CachedSequence)
    relay: Relay = field(default_factory=Relay)
    unheard: deque[range] = field(default_factory=deque)
    rows: list[Tensor] = field(default_factory=list)
    positions: Tensor | None = None
    block_keys: Sequence[bytes] = ()
    position: int = 0
    num_samples: int = 0
    due: float | None = None
    ended: bool = False

    @property
    def num_unread(self) -> int:
        """Rows of the prompt that the talker was handed and has not read."""
        return sum(len(rows) for rows in self.rows)

    @property
    def codes(self) -> tuple[int, ...]:
        """Codec ids, frame by frame."""
        return tuple(code for frame in self.track.frames for code in frame)

    @property
    def seconds(self) -> float:
        """Of sound that was made."""
        return self.num_samples / self.sample_rate
