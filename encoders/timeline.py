"""Pieces of sound to their places on a container's clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
"""`[channels, S]`"""

TOLERANCE = 0.02
"""Seconds by which stamps may err: those of WebM are whole milliseconds, and browsers take theirs from a busy clock."""
WINDOW = 0.5
"""Seconds for which stamps must agree that sound is missing, or there twice, before they are believed."""
OVERLAP, JUMP = 0.5, 10.0
"""Seconds by which a stamp goes back, or ahead where clocks jump: it was set anew there, as where files are joined."""


@dataclass(frozen=True)
class Piece:
    """Sound that was decoded at once.

    Attributes:
        time: seconds on the container's clock; None where it follows the piece before.
        after_damage: what was before it was lost, so that its stamp is believed to the sample.
    """

    samples: Samples
    time: float | None
    after_damage: bool = False


class Timeline:
    """Pieces in, and the same samples out with silence where there were none.

    Silence is put in where all stamps of half a second say that more than 20 ms are missing, and samples that lie over
    others are left out where they all say so. So jitter changes nothing, and no sound drifts off its stamps by more.

    rate: of the samples, in Hz.
    origin: seconds on the container's clock at which sample 0 lies, exactly; None: where the first piece begins.
    jumps: the clock may jump ahead without a hole, as in broadcasts.
    """

    def __init__(self, rate: int, origin: float | None, *, jumps: bool = False) -> None:
        self.rate, self.origin, self.jumps = rate, origin, jumps
        self.holes: list[tuple[float, float]] = []
        """Where silence was put in after the first sound, and not for damage: seconds after the origin, and how many."""
        self.left_out = 0.0
        """Seconds that lay over others, what lies before the origin aside."""
        self._at = 0
        self._began = False
        self._waiting: deque[tuple[Piece, int]] = deque()  # with the sample at which each is due

    @property
    def holes_seconds(self) -> float:
        """Of all of them together."""
        return sum(seconds for _, seconds in self.holes)

    def place(self, pieces: Iterable[Piece]) -> Iterator[Samples]:
        """The samples from the origin on, silence a second at a time at most."""
        waiting, expected, shift = 0, 0.0, 0.0
        for piece in pieces:
            if self.origin is None:
                self.origin = piece.time or 0.0
            time = expected if piece.time is None else piece.time + shift
            if self._began or self._waiting:
                jump = time - expected
                if jump < -OVERLAP or (self.jumps and jump > JUMP):
                    shift, time = shift - jump, expected
            expected = time + piece.samples.shape[1] / self.rate
            self._waiting.append((piece, round((time - self.origin) * self.rate)))
            waiting += piece.samples.shape[1]
            while waiting > WINDOW * self.rate:
                waiting -= self._waiting[0][0].samples.shape[1]
                yield from self._next()
        while self._waiting:
            yield from self._next()

    def _next(self) -> Iterator[Samples]:
        """Place the first of those that wait, by the stamps of all of them."""
        piece, due = self._waiting[0]
        samples = piece.samples
        tolerance = TOLERANCE * self.rate if self._began else 0
        late, end = [due - self._at], self._at + samples.shape[1]
        if piece.after_damage or not -tolerance <= late[0] <= tolerance:
            for other, its_due in islice(self._waiting, 1, None):
                late.append(its_due - end)
                end += other.samples.shape[1]
        self._waiting.popleft()
        if (missing := min(late)) > (0 if piece.after_damage else tolerance):
            if self._began and not piece.after_damage:
                self.holes.append((self._at / self.rate, missing / self.rate))
            yield from self._silence(len(samples), missing)
        elif (over := -max(late)) > tolerance:
            dropped = min(over, samples.shape[1])
            self.left_out += dropped / self.rate if self._began else 0.0
            samples = samples[:, dropped:]
        if samples.shape[1]:
            self._began = True
            self._at += samples.shape[1]
            yield samples

    def _silence(self, channels: int, num_samples: int) -> Iterator[Samples]:
        self._at += num_samples
        for at in range(0, num_samples, self.rate):
            yield np.zeros((channels, min(self.rate, num_samples - at)), np.float32)
