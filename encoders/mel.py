"""Waves to log-mel frames, whole or as they come: Whisper's front end padded to 300 s, on the frames that hold sound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omni.encoders.config import MelConfig
from omni.encoders.features import Sound
from omni.errors import MediaError, MediaLimitError

_FLOOR = 1e-10
_SILENCE = math.log10(_FLOOR)
_RANGE = 8.0
"""Decades below the loudest bin at which a frame is clamped."""
MIN_FRAMES = 3
"""Of a sound: a tower makes no row of fewer."""


@dataclass
class _Block:
    """Attributes:
    power: log10 of the mel power, `[mel bins, frames]`; low: the least of it.
    sound: as it sounds above `floor`; None until somebody has asked.
    """

    power: Tensor
    low: float
    sound: Sound | None = None
    floor: float = 0.0

    def stands(self, floor: float) -> bool:
        """Whether it has been heard already as it sounds above this floor."""
        return self.sound is not None and max(self.floor, self.low) == max(floor, self.low)

    def above(self, floor: float) -> Sound:
        """Its frames clamped; the same object for as long as the floor changes nothing in it."""
        if self.sound is None or not self.stands(floor):
            self.sound, self.floor = Sound((self.power.clamp(min=floor) + 4.0) / 4.0), floor
        return self.sound


@dataclass
class MelState:
    """A sound so far.

    Attributes:
        samples: float32 `[S]`, from half a window before the first frame that is in no block yet.
        num_samples: that have come.
        peak: log10 power of the loudest bin.
    """

    samples: Tensor
    num_samples: int = 0
    peak: float = _SILENCE
    blocks: list[_Block] = field(default_factory=list)

    @property
    def floor(self) -> float:
        return self.peak - _RANGE

    @property
    def num_standing(self) -> int:
        """Leading blocks that are what they were when `LogMel.blocks` was asked for them last."""
        floor = self.floor
        return next((i for i, block in enumerate(self.blocks) if not block.stands(floor)), len(self.blocks))


class LogMel:
    """Waves to log-mel, equal to WhisperFeatureExtractor's on the frames that it does not mask.

    A sound may come in pieces. Frames are computed block by block, each once and never together with those of another
    block, so how a sound was split changes no bit of it. Values are clamped at 8 decades below the loudest bin of the whole
    sound: where louder sound follows, what lay below its floor before changes, and nothing else does.

    Args:
        block_frames: of a block; the last of a sound has fewer.
    """

    def __init__(self, config: MelConfig, block_frames: int = 200) -> None:
        assert block_frames > 1  # the first frame alone needs samples that mirror into it
        self.config, self.block_frames = config, block_frames

    def check(self, num_samples: int) -> None:
        """Raise MediaLimitError where a sound is longer than the model hears; the original drops the rest without a word."""
        if num_samples > self.config.longest:
            seconds = num_samples / self.config.sampling_rate
            most = self.config.chunk_length
            raise MediaLimitError(f"a sound of {seconds:.1f} s; the model hears {most} s in one piece; cut it")

    def start(self) -> MelState:
        return MelState(torch.zeros(0))

    def step(self, state: MelState, samples: npt.NDArray[np.float32]) -> None:
        """Take samples float32 `[S]`; MediaLimitError above `chunk_length` seconds."""
        assert samples.ndim == 1
        assert samples.dtype == np.float32
        self.check(state.num_samples + len(samples))
        state.num_samples += len(samples)
        state.samples = torch.cat([state.samples, torch.tensor(samples)])
        while state.num_samples >= self.samples_of(len(state.blocks) + 1):
            self._next(state)

    def samples_of(self, num_blocks: int) -> int:
        """Samples that so many whole blocks depend on."""
        return (num_blocks * self.block_frames - 1) * self.config.hop_length + self.config.n_fft // 2

    def blocks(self, state: MelState) -> list[Sound]:
        """The whole blocks, clamped by the loudest of them; the same objects for as long as they do not change."""
        return [block.above(state.floor) for block in state.blocks]

    def finish(self, state: MelState) -> Sound:
        """The whole sound, `[mel bins, ceil(S / hop)]`; MediaError below three frames: no row would come of them."""
        c = self.config
        num_frames = math.ceil(state.num_samples / c.hop_length)
        if num_frames < MIN_FRAMES:
            least = 1000 * (MIN_FRAMES - 1) * c.hop_length / c.sampling_rate
            raise MediaError(f"a sound of {num_frames} mel frames is too short to be heard; it must last over {least:g} ms")
        # two frames more still overlap the sound and may hold its maximum; the padded sound has no frame after the longest
        while len(state.blocks) * self.block_frames < min(num_frames + 2, c.longest // c.hop_length):
            self._next(state)
        return Sound(torch.cat([block.mel for block in self.blocks(state)], 1)[:, :num_frames])

    def _next(self, state: MelState) -> None:
        """Compute the next block as if silence followed what has come."""
        c, half, first = self.config, self.config.n_fft // 2, len(state.blocks) * self.block_frames
        samples = state.samples if first else torch.cat([_mirrored(state.samples, half), state.samples])
        window = torch.zeros((self.block_frames - 1) * c.hop_length + c.n_fft)
        have = samples[: len(window)]
        window[: len(have)] = have
        num = min(self.block_frames, c.longest // c.hop_length - first)
        end = (num - 1) * c.hop_length + c.n_fft
        past = first * c.hop_length - half + end - c.longest
        if past > 0:  # the original mirrors what lies past the longest sound
            window[end - past : end] = window[end - 2 * past - 1 : end - past - 1].flip(0)
        power = _log_power(window, c)[:, :num]
        state.blocks.append(_Block(power, float(power.min())))
        state.peak = max(state.peak, float(power.max()))
        state.samples = samples[self.block_frames * c.hop_length :]


def log_mel(wave: npt.NDArray[np.float32], config: MelConfig, block_frames: int = 200) -> Sound:
    """A whole sound as log-mel: `[S]` at the config's rate gives `[mel bins, ceil(S / hop)]`; see `LogMel`."""
    mel = LogMel(config, block_frames)
    state = mel.start()
    mel.step(state, wave)
    return mel.finish(state)


def _mirrored(samples: Tensor, num: int) -> Tensor:
    """The original mirrors the start: what comes before it."""
    start = torch.zeros(num + 1)
    start[: len(samples)] = samples[: num + 1]
    return start[1:].flip(0)


def _log_power(samples: Tensor, config: MelConfig) -> Tensor:
    """log10 of the mel power of every whole window in `[S]`: `[mel bins, T]`."""
    bank = filter_bank(config.feature_size, config.n_fft, config.sampling_rate, config.sampling_rate / 2)
    spectrum = torch.stft(
        samples, config.n_fft, config.hop_length, window=_window(config.n_fft), center=False, return_complex=True
    )
    return (bank @ (spectrum.real.square() + spectrum.imag.square())).clamp(min=_FLOOR).log10()


@lru_cache
def _window(n_fft: int) -> Tensor:
    return torch.hann_window(n_fft)


@lru_cache
def filter_bank(num_bins: int, n_fft: int, rate: int, top: float) -> Tensor:
    """Slaney's triangles of unit area, evenly spaced on his mel scale from 0 to `top` Hz: `[num_bins, n_fft / 2 + 1]`."""
    # linear up to 1 kHz (15 mel), then 27 mel to every factor of 6.4
    top_mel = 3 * top / 200 if top < 1000 else 15 + 27 * math.log(top / 1000) / math.log(6.4)
    mel = np.linspace(0, top_mel, num_bins + 2)
    edge = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)
    low, centre, high = edge[:-2, None], edge[1:-1, None], edge[2:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(0)
    return torch.from_numpy((triangles * 2 / (high - low)).astype(np.float32))
