"""A spoken answer as the pieces of sound that a client is sent."""

from __future__ import annotations

from omni.streaming.audio.tempo import Tempo
from omni.streaming.audio.wire import FORMATS, WHOLE, Resampler, Samples
from omni.streaming.realtime.items import num_bytes

PIECE_MS = 200


class Pieces:
    """Samples of any number in, pieces of about PIECE_MS in a format of the wire out; the last may be shorter.

    The base64 of the pieces joins: all but the last are of WHOLE bytes times a number.

    Args:
        rate: of what is pushed.
        speed: 1.5 is half as quick again, at the same pitch.
    """

    def __init__(self, rate: int, format: str, speed: float) -> None:
        self._tempo = Tempo(speed, rate)
        self._resampler = Resampler(rate, FORMATS[format].rate)
        self._encode = FORMATS[format].encode
        self._size = num_bytes(format, PIECE_MS) // WHOLE * WHOLE
        self._waiting = bytearray()

    def push(self, samples: Samples) -> list[bytes]:
        """float32 `[S]` to the pieces that are there now: but for some bytes, only the filters hold anything back."""
        self._code(self._tempo.push(samples))
        return self._taken(len(self._waiting) // WHOLE * WHOLE)

    def finish(self) -> list[bytes]:
        """The rest; nothing may be pushed afterwards."""
        self._code(self._tempo.finish())
        self._waiting += self._encode(self._resampler.finish())
        return self._taken(len(self._waiting))

    def _code(self, samples: Samples) -> None:
        self._waiting += self._encode(self._resampler.push(samples))

    def _taken(self, end: int) -> list[bytes]:
        taken, self._waiting = bytes(self._waiting[:end]), self._waiting[end:]
        return [taken[at : at + self._size] for at in range(0, len(taken), self._size)]
