"""Sound files that grow as sound is made."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from omni.errors import OptionError


class WaveFile:
    """A mono file whose format its name says; nothing is written where there is no path."""

    def __init__(self, path: Path | None, sample_rate: int) -> None:
        self._path, self._rate = path, sample_rate
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = soundfile.SoundFile(self._path, "w", self._rate, 1)
            except (TypeError, ValueError, OSError, soundfile.SoundFileError) as e:
                raise OptionError(
                    f"{self._path} cannot be written as sound ({e}); name a .wav, .flac, .ogg or .mp3 file"
                ) from e
        return self

    def write(self, samples: NDArray[np.float32]) -> None:
        if self._file is not None:
            self._file.write(samples)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
