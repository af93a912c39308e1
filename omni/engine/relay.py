"""Thoughts on their way from the thinker to the talker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor


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
