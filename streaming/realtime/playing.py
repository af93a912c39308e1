"""What a client's loudspeaker does with what was sent to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Playing:
    """As far as can be told from here: sound is played as soon as it comes, one piece after the other.

    Attributes:
        until: when the sound that was sent will have been played, in seconds of the protocol's clock.
    """

    until: float = float("-inf")

    def sent(self, seconds: float, now: float) -> None:
        self.until = max(self.until, now) + seconds

    def left_ms(self, now: float) -> int:
        """Of what was sent, how much is still to be played."""
        return max(0, round(1000 * (self.until - now))) if self.until > now else 0
