"""Speech made quicker or slower at the same pitch, while it is being made."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

LEAST_OF_ONE = 0.5
"""The slowest that one filter goes; slower speech goes through several."""
TAIL = 0.25
"""Seconds of silence that push the last sound out of the filters; none of it is kept."""

STEP = 480
"""Samples of a frame: the filter gives out a frame's sound when the next one comes."""


class Tempo:
    """FFmpeg's atempo on mono sound that comes in pieces; at a speed of 1 the sound stays as it is.

    Args:
        speed: 2 makes it twice as quick.
        rate: of the sound, in Hz.
    """

    def __init__(self, speed: float, rate: int) -> None:
        self._speed, self._rate = speed, rate
        self._num_in = self._num_out = 0
        if speed == 1:
            return
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=Fraction(1, rate))
        self._sink = self._graph.add("abuffersink")
        last = self._source
        while speed < LEAST_OF_ONE:
            last, speed = self._then(last, LEAST_OF_ONE), speed / LEAST_OF_ONE
        self._then(last, speed).link_to(self._sink)
        self._graph.configure()

    def _then(self, last: av.filter.context.FilterContext, speed: float) -> av.filter.context.FilterContext:
        step = self._graph.add("atempo", repr(speed))
        last.link_to(step)
        return step

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """What float32 `[S]` in -1..1 lets out; may be empty."""
        if self._speed == 1:
            return samples
        self._feed(samples)
        return self._kept(self._num_in)

    def finish(self) -> NDArray[np.float32]:
        """The rest; all that came out is then as long as what went in, over the speed."""
        if self._speed == 1:
            return np.empty(0, np.float32)
        num_in = self._num_in
        self._feed(np.zeros(round(TAIL * self._rate), np.float32))
        self._source.push(None)
        return self._kept(num_in)

    def _feed(self, samples: NDArray[np.float32]) -> None:
        for at in range(0, len(samples), STEP):
            piece = np.ascontiguousarray(samples[None, at : at + STEP])
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout="mono")
            frame.sample_rate, frame.pts = self._rate, self._num_in
            self._num_in += piece.shape[1]
            self._source.push(frame)

    def _kept(self, num_in: int) -> NDArray[np.float32]:
        """What the filters have ready, as far as it belongs to the first `num_in` samples."""
        pieces = [np.empty(0, np.float32)]
        while True:
            try:
                pieces.append(self._sink.pull().to_ndarray()[0])
            except (BlockingIOError, EOFError):
                break
        samples = np.concatenate(pieces)[: max(0, round(num_in / self._speed) - self._num_out)]
        self._num_out += len(samples)
        return samples
