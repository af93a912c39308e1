"""Waves to log-mel frames: Whisper's front end padded to 300 s, computed on the frames that hold sound only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omni.encoders.config import MelConfig
from omni.encoders.features import Sound, num_audio_tokens
from omni.errors import MediaError, MediaLimitError

_FLOOR = 1e-10
_SILENCE = math.log10(_FLOOR)
_RANGE = 8.0
"""Decades below the loudest bin at which a frame is clamped."""


def log_mel(wave: npt.NDArray[np.float32], config: MelConfig) -> Sound:
    """A whole sound as log-mel, equal to WhisperFeatureExtractor's on the frames that it does not mask.

    wave: float32 `[S]` at the config's rate; gives `[mel bins, ceil(S / hop)]`. Values are clamped at 8 decades below the
    loudest bin of the whole sound. Raises MediaError below three frames (no row would come of them), MediaLimitError
    above `chunk_length` seconds (where the original drops the rest without a word).
    """
    assert wave.ndim == 1
    assert wave.dtype == np.float32
    limit = config.chunk_length * config.sampling_rate
    if len(wave) > limit:
        seconds = len(wave) / config.sampling_rate
        raise MediaLimitError(f"a sound of {seconds:.1f} s; the model hears {config.chunk_length} s in one piece; cut it")
    num_frames = math.ceil(len(wave) / config.hop_length)
    _check_frames(num_frames, config)
    # two frames more still overlap the sound and may hold its maximum; the padded sound has no frame after `limit`
    reach = min(num_frames + 2, limit // config.hop_length)
    half, end = config.n_fft // 2, (reach - 1) * config.hop_length + config.n_fft // 2
    samples = torch.zeros(end)
    samples[: len(wave)] = torch.tensor(wave)
    if end > limit:  # past the padding the original mirrors
        samples[limit:] = samples[2 * limit - 1 - end : limit - 1].flip(0)
    power = _log_power(torch.cat([samples[1 : half + 1].flip(0), samples[:end]]), config)
    return Sound(_scale(power[:, :num_frames], float(power.max())))


def _check_frames(num_frames: int, config: MelConfig) -> None:
    if num_audio_tokens(num_frames) < 1:
        least = 2000 * config.hop_length / config.sampling_rate
        raise MediaError(f"a sound of {num_frames} mel frames is too short to be heard; it must last over {least:g} ms")


def _log_power(samples: Tensor, config: MelConfig) -> Tensor:
    """log10 of the mel power of every whole window in `[S]`: `[mel bins, T]`."""
    bank = filter_bank(config.feature_size, config.n_fft, config.sampling_rate, config.sampling_rate / 2)
    spectrum = torch.stft(
        samples, config.n_fft, config.hop_length, window=_window(config.n_fft), center=False, return_complex=True
    )
    return (bank @ spectrum.abs().square()).clamp(min=_FLOOR).log10()


def _scale(power: Tensor, peak: float) -> Tensor:
    return (power.clamp(min=peak - _RANGE) + 4.0) / 4.0


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


@dataclass
class LiveMelState:
    """Attributes:
    samples: that frames still to come need, the first half a window before the next frame's centre.
    num_samples, num_frames: heard and given out so far.
    peak: log10 power of the loudest bin so far.
    """

    samples: Tensor
    num_samples: int = 0
    num_frames: int = 0
    peak: float = _SILENCE


class LiveMel:
    """Log-mel of a sound that is still being made.

    Frames come in whole blocks, and a block is clamped at 8 decades below the loudest bin of all blocks so far, itself
    included: how the samples were split does not matter. It is therefore approximate: where louder sound follows, frames
    given out before may lie below the floor that `log_mel` would clamp them at, and nothing else differs. A sound of one
    block is exact.
    """

    def __init__(self, config: MelConfig, block_frames: int = 200) -> None:
        assert block_frames > 1  # the first frame alone needs samples that mirror into it
        self.config, self.block_frames = config, block_frames

    def start(self) -> LiveMelState:
        return LiveMelState(torch.zeros(0))

    def step(self, state: LiveMelState, samples: npt.NDArray[np.float32]) -> Tensor:
        """Take samples float32 `[S]`; give the frames of the blocks they complete, `[mel bins, blocks * block_frames]`."""
        assert samples.ndim == 1
        assert samples.dtype == np.float32
        c, half = self.config, self.config.n_fft // 2
        state.num_samples += len(samples)
        state.samples = torch.cat([state.samples, torch.tensor(samples)])
        blocks = []
        while state.num_samples >= (state.num_frames + self.block_frames - 1) * c.hop_length + half:
            blocks.append(self._block(state, self.block_frames, self.block_frames))
        return torch.cat(blocks, 1) if blocks else torch.empty(c.feature_size, 0)

    def finish(self, state: LiveMelState) -> Tensor:
        """The frames still due, `[mel bins, fewer than block_frames + 2]`; MediaError where the whole sound is too short."""
        num_frames = math.ceil(state.num_samples / self.config.hop_length)
        _check_frames(num_frames, self.config)
        due = num_frames - state.num_frames
        return self._block(state, due, due + 2)

    def _block(self, state: LiveMelState, num_frames: int, reach: int) -> Tensor:
        """The next frames; the peak is looked for in the first `reach` from here."""
        c, half = self.config, self.config.n_fft // 2
        samples = state.samples
        if state.num_frames == 0:  # the original mirrors the start
            start = torch.zeros(half + 1)
            start[: len(samples)] = samples[: half + 1]
            samples = torch.cat([start[1:].flip(0), samples])
        need = (reach - 1) * c.hop_length + c.n_fft
        window = torch.zeros(need)
        window[: len(samples)] = samples[:need]
        power = _log_power(window, c)
        state.peak = max(state.peak, float(power.max()))
        state.samples = samples[num_frames * c.hop_length :]
        state.num_frames += num_frames
        return _scale(power[:, :num_frames], state.peak)
