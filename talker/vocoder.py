"""Codec ids to sound, in pieces: a flow-matching window for each chunk of codes, a BigVGAN window for each run of frames.

A flow-matching window holds a chunk and blocks of look-ahead behind it, and the chunk alone is kept. Of the blocks before,
it sees the keys and values that they had when they were made, so that only what lies ahead is ever cut off; what a frame
owes to it falls by a factor of 10 to 50 with each block. Every window is integrated from t = 0 with its slice of one noise.
Windows are a matter of the policy alone; how codes arrive changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omni.errors import CheckpointError, OptionError, VoiceError
from omni.kernels.replay import Replays, replays_on
from omni.talker.bigvgan import BigVGAN
from omni.talker.config import BigVGANConfig, DiTConfig
from omni.talker.dit import DiT, Place, Schedule
from omni.talker.flow import PUBLISHED, Solver
from omni.talker.voice import STREAMED, ChunkPolicy, Frame
from omni.talker.voices import Voice

MOST_SHAPES = 12
"""Of chunks of sound, whose launches are recorded; the chunks of one speech have five, their waves as many."""
WAVE_CONTEXT = 20
"""Mel frames on both sides of those that a BigVGAN window makes sound of; the cut errs by about float32's rounding."""
WAVE_WINDOW = 512
"""Mel frames that BigVGAN makes sound of at once; bounds the memory of long speech."""


@dataclass(frozen=True)
class Preset:
    """How much work goes into the log-mel frames.

    Attributes:
        dtype: of the products inside the flow-matching transformer; everything else of the vocoder is float32.
    """

    solver: Solver
    dtype: torch.dtype


PRESETS: Mapping[str, Preset] = {
    "faithful": Preset(PUBLISHED, torch.float32),
    "fast": Preset(Solver(rule="midpoint"), torch.bfloat16),
    "turbo": Preset(Solver(num_points=6, rule="midpoint"), torch.bfloat16),
}
"""By name, with 36, 18 and 10 evaluations; the first is what the models were published with."""
FAITHFUL = PRESETS["faithful"]


def pick_preset(name: str) -> Preset:
    """The preset of that name; OptionError lists the known ones."""
    if name not in PRESETS:
        raise OptionError(f"vocoder is {name!r}; give one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]


@dataclass(frozen=True, eq=False)
class PreparedVoice:
    """What stays the same over every speech of a voice.

    Attributes:
        rows: `[2, C]`, see `DiT.voice`.
    """

    rows: Tensor
    schedule: Schedule


@dataclass
class Noise:
    """Standard normal rows by absolute frame, the same in whatever pieces they are read.

    Attributes:
        rows: float32 `[T, mel_dim]` on the host, for the frames from `first` on.
        generator: draws more of them, a block at a time; None when all were given.
    """

    rows: Tensor
    block_size: int
    generator: torch.Generator | None
    first: int = 0

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of frames start..stop; OptionError when the rows given end before."""
        missing = stop - self.first - len(self.rows)
        if missing > 0:
            if self.generator is None:
                raise OptionError(f"the noise given ends before frame {stop}; give a row for every mel frame")
            shape, num_blocks = (self.block_size, self.rows.shape[1]), -(-missing // self.block_size)
            blocks = [torch.randn(shape, generator=self.generator, device="cpu") for _ in range(num_blocks)]
            self.rows = torch.cat((self.rows, *blocks))
        return self.rows[start - self.first : stop - self.first]

    def forget(self, before: int) -> None:
        self.rows, self.first = self.rows[before - self.first :], before


@dataclass
class VocoderState:
    """One speech on its way from codes to sound; blocks are counted from its start.

    Attributes:
        mel: float32 `[T, mel_dim]`, frames that wait to become sound, after some that already did.
        num_voiced: how many of them already did.
        codes: from block `num_blocks` on.
        num_chunks, num_blocks: made into mel so far.
        past: what the next window sees of them, see `DiT.sample_on`.
        ended: no more codes will come.
    """

    voice: PreparedVoice
    chunks: ChunkPolicy
    noise: Noise
    mel: Tensor
    num_voiced: int = 0
    codes: list[int] = field(default_factory=list)
    num_chunks: int = 0
    num_blocks: int = 0
    past: Tensor | None = None
    ended: bool = False


@dataclass
class _WaveWindow:
    """Frames `[T, mel_dim]` that BigVGAN sees at once, of which `first` to `last` become a speech's next samples."""

    index: int
    first: int
    last: int
    mel: Tensor
    wave: Tensor | None = None


def exact_convolutions() -> AbstractContextManager[None]:
    """cuDNN would round float32 convolutions to TF32, which is heard and measured (1e-3 of the wave)."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class FlowVocoder(nn.Module):
    """Frames of one code each to log-mel by flow matching, and these to a wave; the `Vocoder` of Qwen2.5-Omni.

    It turns every code into `repeats * hop` samples (480 in the published models).

    Attributes:
        solver: integrates the speech of voices that are prepared from now on.
        replays: record solves and waves, where they are given.
    """

    sample_rate = 24000

    def __init__(self, dit: DiTConfig, bigvgan: BigVGANConfig) -> None:
        super().__init__()
        if dit.block_size % dit.repeats:
            raise CheckpointError(f"blocks of {dit.block_size} frames do not hold whole codes of {dit.repeats} frames")
        self.config, self.solver = dit, PUBLISHED
        self.replays: Replays | None = None
        self.hop = bigvgan.hop
        self.codes_per_block = dit.block_size // dit.repeats
        self.code2wav_dit_model = DiT(dit)
        self.code2wav_bigvgan_model = BigVGAN(bigvgan)

    @property
    def num_codes(self) -> int:
        """Codes below this have a sound."""
        return self.config.num_codes + 1

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / (self.config.repeats * self.hop)

    @property
    def longest_chunk(self) -> int:
        """Codes in the longest chunk of streamed speech."""
        return STREAMED.largest * self.codes_per_block

    @property
    def longest_window(self) -> int:
        """Codes that this chunk is made from."""
        return (STREAMED.largest + STREAMED.ahead) * self.codes_per_block

    @property
    def device(self) -> torch.device:
        return self.code2wav_bigvgan_model.taps.device

    def record(self) -> None:
        """Replay solves and waves from now on, on a device that can."""
        self.replays = replays_on(self.device, MOST_SHAPES)

    def prepare(self, voice: Voice, solver: Solver | None = None) -> PreparedVoice:
        """What all speech by this voice shares; CheckpointError when the voice belongs to another model.

        solver: None for the vocoder's own.
        """
        dims = voice.cond.shape[-1], voice.ref_mel.shape[-1]
        if dims != (self.config.voice_dim, self.config.mel_dim):
            raise CheckpointError(
                f"voice {voice.name!r} has {dims[0]} and {dims[1]} channels, the model "
                f"{self.config.voice_dim} and {self.config.mel_dim}; take the voices that came with the model"
            )
        dit = self.code2wav_dit_model
        with exact_convolutions():
            rows = dit.voice(voice.ref_mel.to(self.device), voice.cond.to(self.device))
        return PreparedVoice(rows, dit.schedule(solver or self.solver))

    def start(
        self, voice: PreparedVoice, seed: int = 0, chunks: ChunkPolicy = STREAMED, noise: Tensor | None = None
    ) -> VocoderState:
        """A new speech.

        Args:
            seed: of the noise; on a CPU transformers draws the same noise after `torch.manual_seed(seed)`.
            noise: float32 `[T, mel_dim]` to take instead, a row for every mel frame to come.
        """
        block_size, mel_dim = self.config.block_size, self.config.mel_dim
        if noise is None:
            source = Noise(torch.empty(0, mel_dim), block_size, torch.Generator("cpu").manual_seed(seed))
        else:
            source = Noise(noise.cpu(), block_size, None)
        return VocoderState(voice, chunks, source, mel=torch.empty(0, mel_dim, device=self.device))

    def push(self, state: VocoderState, frame: Frame | None) -> None:
        """Take a frame of one code in, or None where no more will come.

        VoiceError names a code that is not in the table; the state is then as it was.
        """
        assert not state.ended, "no frame comes after the end"
        if frame is None:
            state.ended = True
            return
        (code,) = frame
        if not 0 <= code < self.num_codes:
            raise VoiceError(f"code {code} cannot be spoken; codes are 0 to {self.num_codes - 1}")
        state.codes.append(code)

    def due(self, state: VocoderState) -> int:
        """Codes in the window of the next chunk that is complete; 0 where none is, 1 where only its last samples wait."""
        if stop := self._next_stop(state):
            return len(self._window(state, stop))
        return int(state.ended and len(state.mel) > state.num_voiced)

    def make(self, states: Sequence[VocoderState]) -> list[Tensor]:
        """The samples `[S]` of the next chunk of several speeches, each of which is due."""
        return self.waves(states, self.mels(states))

    def mels(self, states: Sequence[VocoderState]) -> list[Tensor]:
        """The first half of `make`: the next chunk's log-mel frames `[T, mel_dim]`, none where no chunk is complete."""
        out = [state.mel[:0] for state in states]
        stops = [self._next_stop(state) for state in states]
        of_solver: dict[Solver, list[tuple[int, int]]] = {}
        for i, stop in enumerate(stops):
            if stop:
                of_solver.setdefault(states[i].voice.schedule.solver, []).append((i, stop))
        for group in of_solver.values():
            made = self._sample([(states[i], stop) for i, stop in group])
            for (i, _), mel in zip(group, made, strict=True):
                out[i] = mel
        return out

    def waves(self, states: Sequence[VocoderState], mels: Sequence[Tensor]) -> list[Tensor]:
        """The second half of `make`: the samples `[S]` that new mel frames `[T, mel_dim]` complete."""
        windows: list[_WaveWindow] = []
        for i, (state, mel) in enumerate(zip(states, mels, strict=True)):
            state.mel = torch.cat((state.mel, mel))
            over = state.ended and self._next_stop(state) is None
            stop = len(state.mel) if over else len(state.mel) - WAVE_CONTEXT
            if stop <= state.num_voiced:
                continue
            for first in range(state.num_voiced, stop, WAVE_WINDOW):
                last = min(first + WAVE_WINDOW, stop)
                left = max(0, first - WAVE_CONTEXT)
                windows.append(_WaveWindow(i, first - left, last - left, state.mel[left : last + WAVE_CONTEXT]))
            state.num_voiced = min(stop, WAVE_CONTEXT)
            state.mel = state.mel[stop - state.num_voiced :]
        out: list[list[Tensor]] = [[state.mel.new_empty(0)] for state in states]
        # windows of one length pass side by side
        for length in dict.fromkeys(len(w.mel) for w in windows):
            alike = [w for w in windows if len(w.mel) == length]
            with exact_convolutions():
                made = self._wave(torch.stack([w.mel for w in alike]))
            for w, wave in zip(alike, made, strict=True):
                w.wave = wave[w.first * self.hop : w.last * self.hop]
        for w in windows:
            assert w.wave is not None
            out[w.index].append(w.wave)
        return [torch.cat(waves) for waves in out]

    def _wave(self, mel: Tensor) -> Tensor:
        if self.replays is None:
            return self.code2wav_bigvgan_model(mel)
        (wave,) = self.replays("wave", lambda x: (self.code2wav_bigvgan_model(x),), mel)
        return wave

    def _next_stop(self, state: VocoderState) -> int | None:
        """The block at which the next chunk ends; None while codes for it, or its look-ahead, are missing."""
        size = state.chunks.size(state.num_chunks)
        if len(state.codes) >= (size + state.chunks.ahead) * self.codes_per_block:
            return state.num_blocks + size
        rest = -(-len(state.codes) // self.codes_per_block)
        return state.num_blocks + rest if state.ended and rest else None

    def _window(self, state: VocoderState, stop: int) -> list[int]:
        """The codes that a chunk up to block `stop` is made from."""
        return state.codes[: (stop + state.chunks.ahead - state.num_blocks) * self.codes_per_block]

    def _sample(self, chunks: Sequence[tuple[VocoderState, int]]) -> list[Tensor]:
        """Mel frames of blocks `num_blocks..stop` of speeches with one solver, and states that have moved behind them."""
        size, dit = self.config.block_size, self.code2wav_dit_model
        windows = [self._window(state, stop) for state, stop in chunks]
        noise, places = [], []
        for (state, stop), window in zip(chunks, windows, strict=True):
            at, num = state.num_blocks * size, (stop - state.num_blocks) * size
            noise.append(state.noise.read(at, at + len(window) * self.config.repeats))
            is_last = state.ended and num >= len(state.codes) * self.config.repeats
            places.append(Place(at, state.past, 0 if is_last else num))
        rows, pasts = dit.sample_on(
            torch.tensor([code for window in windows for code in window], device=self.device),
            torch.cat(noise).to(self.device),
            torch.stack([state.voice.rows for state, _ in chunks]),
            [len(window) for window in windows],
            chunks[0][0].voice.schedule,
            places,
            self.replays,
        )
        made = []
        for (state, stop), mel, past in zip(chunks, rows.split([len(x) for x in noise]), pasts, strict=True):
            num = stop - state.num_blocks
            made.append(mel[: num * size])
            del state.codes[: num * self.codes_per_block]
            state.noise.forget(stop * size)
            state.num_blocks, state.num_chunks, state.past = stop, state.num_chunks + 1, past
        return made
