"""What makes a voice: a talker turns thoughts into frames of codes, a vocoder turns these into sound."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from omni.errors import OptionError
from omni.kernels.sampling import Sampling

Frame: TypeAlias = tuple[int, ...]
"""What is spoken at once: one codec id, or one for each codebook."""


@dataclass(frozen=True)
class ChunkPolicy:
    """How speech is cut into chunks, in the vocoder's blocks (0.24 s for Qwen2.5-Omni).

    Attributes:
        first: blocks in the first chunk.
        growth: blocks by which each chunk is longer than the one before it.
        largest: blocks that no chunk exceeds.
        ahead: blocks of codes after a chunk that must be known before it is made. Against one window over everything the
            log-mel frames then err by some 2e-3 (0), 4e-5 (1) or 4e-7 (2) relative to their RMS, whatever the chunks.
    """

    first: int = 2
    growth: int = 1
    largest: int = 6
    ahead: int = 1

    def __post_init__(self) -> None:
        if self.first < 1 or self.largest < self.first or min(self.growth, self.ahead) < 0:
            raise OptionError(f"{self} makes no chunks; give 1 <= first <= largest, and no negative number")

    def size(self, index: int) -> int:
        """Blocks in the chunk of that index."""
        return min(self.first + index * self.growth, self.largest)


STREAMED = ChunkPolicy()
WHOLE = ChunkPolicy(first=sys.maxsize, largest=sys.maxsize)
"""One window over everything, when the speech ends."""


@dataclass(kw_only=True)
class TalkerState:
    """One answer on its way from thoughts to frames; each talker adds what is its own.

    Attributes:
        thoughts: `[C]` each, that wait for their step, oldest first.
        told: those that have had it, oldest first.
        text_ended: no more thoughts will come.
        frames: picked so far.
    """

    thoughts: deque[Tensor] = field(default_factory=deque)
    told: list[Tensor] = field(default_factory=list)
    text_ended: bool = False
    frames: list[Frame] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether the next step has its thought; late text is waited for, never replaced by padding."""
        return bool(self.thoughts) or (self.text_ended and bool(self.frames))

    def next_thought(self) -> Tensor:
        self.told.append(self.thoughts.popleft())
        return self.told[-1]


class Talker(Protocol):
    """Finds the next frame of several answers, each from the thoughts and the frames before it.

    What it carries for an answer is its own `TalkerState`, and a speaker is what its checkpoint knows of one; so they are
    Any here.
    """

    @property
    def decoder(self) -> nn.Module:
        """Maps rows to hidden rows; its cache and positions are its caller's."""

    @property
    def num_opening_rows(self) -> int:
        """Rows between those of the prompt and the first frame; the last of them has the first thought."""

    def hears(self, ids: Tensor) -> Sequence[range]:
        """Which rows of a prompt of ids int64 `[N]` it reads, in order."""

    def prompt_rows(self, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> Tensor:
        """Its rows `[n, C]` for rows of the thinker's prompt: hidden and input rows, bool `[n]`."""

    def thought(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """Thoughts `[n, C]` from the thinker's hidden and input rows of an answer."""

    def start(self, speaker: Any, words: Tensor, sampling: Sampling | None, seed: int) -> TalkerState:
        """A new answer.

        Args:
            words: the thinker's embedding `[V, C]`.
            sampling: of codes; None for the talker's own.
        """

    def step_rows(self, states: Sequence[Any]) -> list[Tensor]:
        """The rows of the next step of each answer, which has to be ready: the opening, then `[1, C]`."""

    def pick(self, states: Sequence[Any], hidden: Tensor) -> list[Frame | None]:
        """The next frame of each answer from its last hidden row `[B, C]`; None where the speech has ended."""

    def replay_rows(self, state: Any) -> Tensor:
        """All rows behind the prompt that a speech was made from: of the opening, and of every frame but the last."""


class Vocoder(Protocol):
    """Turns frames of codes into sound, in pieces. What it prepares and carries is its own, so it is Any here."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def frames_per_second(self) -> float: ...

    @property
    def longest_chunk(self) -> int:
        """Frames in the longest chunk of streamed speech."""

    @property
    def longest_window(self) -> int:
        """Frames that this chunk is made from."""

    def record(self) -> None:
        """Replay what comes again from now on, on a device that can."""

    def prepare(self, speaker: Any) -> Any:
        """What all speech by a speaker shares; CheckpointError when it belongs to another model."""

    def start(self, prepared: Any, seed: int, chunks: ChunkPolicy) -> Any:
        """A new speech; seed: of what is drawn for it."""

    def push(self, state: Any, frame: Frame | None) -> None:
        """Take a frame in, or None where no more will come. VoiceError names a code without sound, and changes nothing."""

    def due(self, state: Any) -> int:
        """Frames in the window of the next chunk that is complete; 0 where none is, 1 where only its last samples wait."""

    def make(self, states: Sequence[Any]) -> list[Tensor]:
        """The samples, float32 `[S]` in -1..1, of the next chunk of several speeches, each of which is due."""
