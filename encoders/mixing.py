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
    mixer, channels = _Mixer(rate), 0
    for block in _blocks(pieces, rate):
        if len(block) != channels:
            mixer, channels = _Mixer(rate), len(block)
        yield block[0] if channels == 1 else mixer.mix(block)


def _blocks(pieces: Iterable[Samples], rate: int) -> Iterator[Samples]:
    """The same samples about a second at a time; none is shorter than one where there is more of the same channels."""
    waiting: list[Samples] = []
    size = 0
    for piece in pieces:
        if waiting and len(piece) != len(waiting[0]):
            yield np.concatenate(waiting, 1)
            waiting, size = [], 0
        waiting.append(piece)
        size += piece.shape[1]
        if size >= 2 * rate:
            whole = np.concatenate(waiting, 1)
            yield whole[:, :rate]
            waiting, size = [whole[:, rate:]], size - rate
    if waiting:
        yield np.concatenate(waiting, 1)


class _Mixer:
    """Seconds of one number of channels, one after another."""

    def __init__(self, rate: int) -> None:
        self._fade = max(1, round(FADE * rate))
        self._began = False
        self._heard: int | None = None  # which channel; None: the mean

    def mix(self, block: Samples) -> npt.NDArray[np.float32]:
        mean: npt.NDArray[np.float32] = np.mean(block, axis=0, dtype=np.float32)
        before, self._heard = self._heard, self._choice(block, mean)
        out = mean if self._heard is None else block[self._heard]
        if self._began and before != self._heard:
            old = mean if before is None else block[before]
            weight = np.arange(1, min(self._fade, len(mean)) + 1, dtype=np.float32) / self._fade
            faded = old[: len(weight)] * (1 - weight) + out[: len(weight)] * weight
            out = np.concatenate((faded, out[len(weight) :]))
        self._began = True
        return out

    def _choice(self, block: Samples, mean: npt.NDArray[np.float32]) -> int | None:
        power = block.var(1, dtype=np.float64)  # what stands still is not heard, and does not cancel
        if float(mean.var(dtype=np.float64)) >= VANISHED * float(power.sum()) / len(power) ** 2:
            return None
        loudest = int((power > 0.999 * power.max()).argmax())  # the first of equals, whatever rounding says
        if self._heard is not None and power[self._heard] * LOUDER > power[loudest]:
            return self._heard
        return loudest
