"""What a client's microphone has sent and is not part of an item yet."""

from __future__ import annotations

from omni.streaming.audio.wire import FORMATS
from omni.streaming.realtime.items import WIDTHS, num_bytes, seconds


class InputBuffer:
    """Sound on the session's clock: all times are ms of sound that came in since the session began.

    Attributes:
        format: of the sound.
    """

    def __init__(self, format: str) -> None:
        self.format = format
        self._data = bytearray()
        self._start = 0
        """Samples before the first one that is held."""

    def __len__(self) -> int:
        return len(self._data)

    @property
    def seconds(self) -> float:
        return seconds(self.format, len(self._data))

    @property
    def end_ms(self) -> int:
        return (self._start + len(self._data) // WIDTHS[self.format]) * 1000 // FORMATS[self.format].rate

    def append(self, data: bytes) -> None:
        self._data += data

    def since(self, ms: int, until: int | None = None) -> bytearray:
        """What came from one time to another, or to now, as far as it is still held."""
        return self._data[self._index(ms) : None if until is None else self._index(until)]

    def drop_before(self, ms: int) -> None:
        self._drop(self._index(ms))

    def clear(self) -> None:
        self._drop(len(self._data))

    def reset(self, format: str) -> None:
        """Drop everything and go on in another format."""
        self.clear()
        self._start = self._start * FORMATS[format].rate // FORMATS[self.format].rate
        self.format = format

    def _index(self, ms: int) -> int:
        return min(len(self._data), max(0, num_bytes(self.format, ms) - self._start * WIDTHS[self.format]))

    def _drop(self, index: int) -> None:
        self._start += index // WIDTHS[self.format]
        del self._data[:index]
