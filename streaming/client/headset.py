"""The machine's loudspeaker, and its microphone for a conversation by push to talk; needs the extra `voice`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from omni.errors import InputError

try:
    import sounddevice

    FAULT = ""
except (ImportError, OSError) as e:  # the latter where PortAudio is missing
    sounddevice, FAULT = None, str(e)


class Loudspeaker:
    """Mono sound out, at one rate.

    Raises:
        InputError: no sound library here, or no device.
    """

    def __init__(self, rate: int) -> None:
        if sounddevice is None:
            raise InputError(
                f"no sound: {FAULT}; pip install 'omni-runtime[voice]', on Linux with the system's libportaudio2, "
                "or do without --play and --microphone"
            )
        self.rate = rate
        self._left, self._changed = np.empty(0, np.float32), threading.Condition()
        try:
            self._open()
        except (sounddevice.PortAudioError, ValueError) as e:
            raise InputError(f"no microphone or loudspeaker: {e}; connect one, or do without it") from e
        self._out.start()

    def _open(self) -> None:
        self._out: Any = sounddevice.OutputStream(self.rate, channels=1, dtype="float32", callback=self._give)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
        self._out.close()

    def play(self, samples: NDArray[np.float32]) -> None:
        """Sound `[S]` after all that was given before; returns at once."""
        with self._changed:
            self._left = np.concatenate((self._left, samples))

    def wait(self) -> None:
        """Until everything has been played."""
        with self._changed:
            self._changed.wait_for(lambda: not len(self._left))

    def _give(self, block: NDArray[np.float32], *_: object) -> None:
        with self._changed:
            part = self._left[: len(block)]
            block[: len(part), 0], block[len(part) :] = part, 0
            self._left = self._left[len(part) :]
            self._changed.notify_all()


class Headset(Loudspeaker):
    """A loudspeaker with a microphone beside it."""

    def _open(self) -> None:
        super()._open()
        self._in: Any = sounddevice.InputStream(self.rate, channels=1, dtype="float32", callback=self._take)
        self._heard: list[NDArray[np.float32]] = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._in.close()
        super().__exit__(kind, error, trace)

    def record(self, until: Callable[[], object]) -> NDArray[np.float32]:
        """What is said until the call returns: `[S]`."""
        self._heard = []
        self._in.start()
        try:
            until()
        finally:
            self._in.stop()
        return np.concatenate([np.empty(0, np.float32), *self._heard])

    def _take(self, block: NDArray[np.float32], *_: object) -> None:
        self._heard.append(block[:, 0].copy())
