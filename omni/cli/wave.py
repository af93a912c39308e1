"""Sound that is written, or goes into a pipe, as it is made."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from omni.errors import OptionError
from omni.streaming.audio.wire import FileEncoder

STDOUT = Path("-")
"""The path that stands for standard output, which gets a WAV file."""


class WaveFile:
    """A mono file whose format its name says, or standard output; nothing is written where there is no path.

    A file that is already there is replaced once there is sound, or an answer without any; not by an answer that failed.
    """

    def __init__(self, path: Path | None, sample_rate: int) -> None:
        self._path, self._rate = path, sample_rate
        self._file: soundfile.SoundFile | None = None
        self._pipe: FileEncoder | None = None

    def __enter__(self) -> Self:
        if self._path == STDOUT:
            if sys.stdout.isatty():
                raise OptionError("standard output is a terminal, which plays no sound; name a file, or pipe it to a player")
            self._pipe = FileEncoder("wav", self._rate)
        elif self._path is not None:
            if self._path.suffix[1:].upper() not in soundfile.available_formats():
                raise OptionError(f"{self._path} names no sound format that is known; name a .wav, .flac, .ogg or .mp3 file")
            if not self._path.parent.is_dir():
                raise OptionError(f"{self._path.parent} is no folder; make it first")
        return self

    def write(self, samples: NDArray[np.float32]) -> None:
        if self._path is None:
            return
        if self._pipe is not None:
            sys.stdout.buffer.write(self._pipe.push(samples))
            sys.stdout.buffer.flush()
            return
        if self._file is None:
            try:
                self._file = soundfile.SoundFile(self._path, "w", self._rate, 1)
            except (TypeError, ValueError, OSError, soundfile.SoundFileError) as e:
                raise OptionError(f"{self._path} cannot be written ({e}); name another file") from e
        self._file.write(samples)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.write(np.empty(0, np.float32))
        if self._pipe is not None and error is None:
            sys.stdout.buffer.write(self._pipe.finish())
            sys.stdout.buffer.flush()
        if self._file is not None:
            self._file.close()
