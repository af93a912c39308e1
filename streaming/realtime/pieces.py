"""A spoken answer as the pieces of sound that a client is sent."""

from __future__ import annotations

from omni.streaming.audio.tempo import Tempo
from omni.streaming.audio.wire import FORMATS, Resampler, Samples
from omni.streaming.realtime.items import num_bytes

PIECE_MS = 200


class Pieces:
    """Samples of any number in, pieces of PIECE_MS in a format of the wire out; the last may be shorter.

    Args:
        rate: of what is pushed.
        speed: 1.5 is half as quick again, at the same pitch.
    """

    def __init__(self, rate: int, format: str, speed: float) -> None:
        self._tempo = Tempo(speed, rate)
        self._resampler = Resampler(rate, FORMATS[format].rate)
        self._encode = FORMATS[format].encode
        self._size = num_bytes(format, PIECE_MS)
        self._waiting = bytearray()

    def push(self, samples: Samples) -> list[bytes]:
        """float32 `[S]` to the pieces that are there now: what has come is never held back but by the filters."""
        self._code(self._tempo.push(samples))
        return self._taken()

    def finish(self) -> list[bytes]:
        """The rest; nothing may be pushed afterwards."""
        self._code(self._tempo.finish())
        self._waiting += self._encode(self._resampler.finish())
        return self._taken()

    def _code(self, samples: Samples) -> None:
        self._waiting += self._encode(self._resampler.push(samples))

    def _taken(self) -> list[bytes]:
        taken, self._waiting = bytes(self._waiting), bytearray()
        return [taken[at : at + self._size] for at in range(0, len(taken), self._size)]
