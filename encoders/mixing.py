"""Channels to one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from omni.encoders.timeline import Samples

VANISHED = 0.1
"""Of the power that channels which have nothing to do with each other would leave in their mean."""
LOUDER = 2.0
"""How many times the power of the channel that is heard another must have to be heard instead."""
FADE = 0.01
"""Seconds in which one becomes the other."""


def mixed(pieces: Iterable[Samples], rate: int) -> Iterator[npt.NDArray[np.float32]]:
    """The mean of the channels, or the loudest of them where they cancel each other: `[channels, S]` to `[S]`.

    They cancel in a second whose mean has less than a tenth of the power that unrelated channels would leave: for two of
    one loudness, where they are more alike with one's sign changed than a correlation of -0.9. All else is the plain mean.
    """
    mixer, waiting, size = _Mixer(rate), list[Samples](), 0
    for piece in pieces:
        if waiting and len(piece) != len(waiting[0]):
            yield from mixer.mix(waiting)
            mixer, waiting, size = _Mixer(rate), [], 0
        if len(piece) == 1:
            yield piece[0]
            continue
        waiting.append(piece)
        size += piece.shape[1]
        if size >= 2 * rate:  # no second that is judged is shorter than one
            first = [waiting.pop(0)]
            while sum(each.shape[1] for each in first) < rate:
                first.append(waiting.pop(0))
            size -= sum(each.shape[1] for each in first)
            yield from mixer.mix(first)
    if waiting:
        yield from mixer.mix(waiting)


class _Mixer:
    """Seconds of one number of channels, one after another."""

    def __init__(self, rate: int) -> None:
        self._fade = max(1, round(FADE * rate))
        self._began = False
        self._heard: int | None = None  # which channel; None: the mean

    def mix(self, pieces: list[Samples]) -> list[npt.NDArray[np.float32]]:
        means: list[npt.NDArray[np.float32]] = [np.mean(piece, axis=0, dtype=np.float32) for piece in pieces]
        before, self._heard = self._heard, self._choice(pieces, means)
        out = means if self._heard is None else [piece[self._heard] for piece in pieces]
        if self._began and before != self._heard:
            old = means[0] if before is None else pieces[0][before]
            weight = np.minimum(np.arange(1, len(old) + 1, dtype=np.float32) / self._fade, 1)
            out[0] = old * (1 - weight) + out[0] * weight
        self._began = True
        return out

    def _choice(self, pieces: list[Samples], means: list[npt.NDArray[np.float32]]) -> int | None:
        power = np.sum([np.einsum("cs,cs->c", piece, piece, dtype=np.float64) for piece in pieces], axis=0)
        left = sum(float(np.dot(mean, mean)) for mean in means)
        if left >= VANISHED * float(power.sum()) / len(power) ** 2:
            return None
        loudest = int(power.argmax())
        if self._heard is not None and power[self._heard] * LOUDER > power[loudest]:
            return self._heard
        return loudest
