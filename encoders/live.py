"""A sound that is still being made: samples at any rate in, and of log-mel no more is computed than what is new."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import soxr

from omni.encoders.features import Sound
from omni.encoders.mel import LogMel, MelState
from omni.encoders.sources import Budget
from omni.encoders.waves import QUALITY, Wave, check_length, check_rate, check_values, resampled_len
from omni.errors import MediaError

HELD_BACK = 0.05
"""Seconds of sound that resampling usually keeps to itself."""


@dataclass
class LiveState:
    """A sound so far.

    Attributes:
        rate: of its samples, in Hz.
        pieces: float32 `[S]` each, as they came; the first `num_heard` of them have gone on.
        num_samples: of all pieces.
        resampler: None where the rates are the same.
    """

    rate: int
    mel: MelState
    resampler: soxr.ResampleStream | None
    pieces: list[Wave] = field(default_factory=list)
    num_heard: int = 0
    num_samples: int = 0

    @property
    def num_blocks(self) -> int:
        """Blocks whose sound nothing yet to come changes, unless by being louder."""
        return len(self.mel.blocks)

    @property
    def wave(self) -> Wave:
        """All samples, `[S]`."""
        return np.concatenate(self.pieces)


class LiveSound:
    """Pieces of a sound to what `read_audio` and `log_mel` make of the whole, bit for bit."""

    def __init__(self, mel: LogMel, budget: Budget) -> None:
        self.mel, self.budget = mel, budget

    def start(self, rate: int) -> LiveState:
        """MediaError where there is no such rate."""
        check_rate(rate)
        to = self.mel.config.sampling_rate
        resampler = None if rate == to else soxr.ResampleStream(rate, to, 1, dtype="float32", quality=QUALITY)
        return LiveState(rate, self.mel.start(), resampler)

    def step(self, state: LiveState, samples: Wave) -> None:
        """Take a copy of samples float32 `[S]`; there is work only where they may make a block whole.

        MediaError, MediaLimitError: for samples that no sound has, or too many; then none is taken.
        """
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise MediaError(f"samples of a live sound are float32 [S]; these are {samples.dtype} {list(samples.shape)}")
        check_values("the sound", samples)
        num_samples, to = state.num_samples + len(samples), self.mel.config.sampling_rate
        check_length("the sound", num_samples, state.rate, self.budget)
        self.mel.check(resampled_len(num_samples, state.rate, to))
        state.pieces.append(samples.copy())
        state.num_samples = num_samples
        due = self.mel.samples_of(state.num_blocks + 1) * state.rate / to
        if num_samples >= due + (HELD_BACK * state.rate if state.resampler else 0):
            self._hear(state)

    def _hear(self, state: LiveState, *, last: bool = False) -> None:
        new = np.concatenate([np.empty(0, np.float32), *state.pieces[state.num_heard :]])
        state.num_heard = len(state.pieces)
        if state.resampler:
            new = state.resampler.resample_chunk(new, last=last)
        if last:
            left = resampled_len(state.num_samples, state.rate, self.mel.config.sampling_rate) - state.mel.num_samples
            new = np.pad(new[:left], (0, max(0, left - len(new))))
        self.mel.step(state.mel, new)

    def blocks(self, state: LiveState) -> list[Sound]:
        """As `LogMel.blocks`."""
        return self.mel.blocks(state.mel)

    def finish(self, state: LiveState) -> Sound:
        """The whole sound; MediaError where it is too short to be heard."""
        self._hear(state, last=True)
        return self.mel.finish(state.mel)
