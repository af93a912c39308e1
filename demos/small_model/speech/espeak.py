"""espeak-ng as a library, which tells when it speaks each word."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.errors import OmniError

Wave = NDArray[np.float32]
Unit = tuple[str, float, float]
"""A word or a punctuation mark, and the seconds at which it starts and ends."""

RATE, PITCH = 1, 3
SYNCHRONOUS, BY_CHARACTER, UTF8 = 2, 1, 1
END, WORD = 0, 1


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as e:
            raise OmniError("espeak-ng is not installed; apt-get install espeak-ng") from e
        self.sample_rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, None, 0))
        self._pieces: list[NDArray[np.int16]] = []
        self._words: list[tuple[int, int, float]] = []
        self._callback = _Callback(self._hear)
        self._library.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != END:
            if events[i].type == WORD:
                first = events[i].text_position - 1
                self._words.append((first, first + events[i].length, events[i].audio_position / 1000))
            i += 1
        return 0

    def say(self, text: str, voice: str, speed: int, height: int) -> tuple[Wave, int, list[Unit]]:
        """Samples `[S]`, their rate, and the words; `speed` in words a minute, `height` 0 to 99. The text must be ASCII."""
        self._pieces, self._words = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise OmniError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(RATE, speed, 0)
        self._library.espeak_SetParameter(PITCH, height, 0)
        data = text.encode("ascii")
        self._library.espeak_Synth(data, len(data) + 1, 0, BY_CHARACTER, 0, UTF8, None, None)
        wave = (np.concatenate(self._pieces) / np.float32(32768)).astype(np.float32)
        ends = [start for _, _, start in self._words[1:]] + [len(wave) / self.sample_rate]
        units = [(text[a:b], start, end) for (a, b, start), end in zip(self._words, ends, strict=True)]
        return wave, self.sample_rate, units


@lru_cache
def espeak() -> Espeak:
    return Espeak()
