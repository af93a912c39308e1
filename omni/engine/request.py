"""One answer on its way, from prompt to the last sample."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from torch import Tensor

from omni.cache import CachedSequence
from omni.engine.relay import Relay
from omni.engine.text import TextState, TextTrack
from omni.errors import OptionError
from omni.events import Event, Limit
from omni.positions import Clock
from omni.prompt import Prompt
from omni.sampler import Sampler, Sampling
from omni.talker.dual_track import TalkerState
from omni.talker.vocoder import STREAMED, ChunkPolicy, VocoderState

CODES_PER_SECOND = 50
VOICE_SAMPLING = Sampling(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.05)
"""As transformers samples codec ids."""


class SpeechArgs(TypedDict, total=False):
    """The fields of `Options` that shape speech, for calls that take them one by one."""

    max_audio_seconds: float
    voice_sampling: Sampling
    seed: int | None
    chunks: ChunkPolicy


class OptionArgs(SpeechArgs, total=False):
    """All fields of `Options`, for calls that take them one by one."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    stop: Sequence[str]


@dataclass(frozen=True)
class Options:
    """How an answer is made.

    Attributes:
        max_tokens: of text.
        max_audio_seconds: of speech.
        temperature, top_k, top_p, repetition_penalty: of text; greedy unless told otherwise, as the model was released.
        voice_sampling: of codec ids; the released defaults.
        stop: a string, or several, that end the answer; neither written nor spoken.
        seed: of every random draw; None for a new one each time.
        chunks: how streamed speech is cut into pieces.
    """

    max_tokens: int = 1024
    max_audio_seconds: float = 300.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    voice_sampling: Sampling = VOICE_SAMPLING
    stop: Sequence[str] = ()
    seed: int | None = None
    chunks: ChunkPolicy = STREAMED

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise OptionError(f"max_tokens is {self.max_tokens}; give 1 or more")
        if not 1 / CODES_PER_SECOND <= self.max_audio_seconds < float("inf"):
            raise OptionError(f"max_audio_seconds is {self.max_audio_seconds}; give {1 / CODES_PER_SECOND} or more")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not all(self.stop):
            raise OptionError("a stop string is empty; give at least one character")
        if self.seed is not None and not 0 <= self.seed < 2**62:
            raise OptionError(f"seed is {self.seed}; give 0 to 2**62 - 1")
        _ = self.sampling  # checks its own ranges

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty)

    @property
    def max_codes(self) -> int:
        return int(self.max_audio_seconds * CODES_PER_SECOND)


@dataclass
class Speech:
    """The spoken side of an answer.

    Attributes:
        prompt_rows: `[P, talker hidden]`, freed once the talker has read them.
    voice_row: the thinker's embedding of the voice's id, `[C]`.
        position: of the next codec step, the same on all axes.
        new_codes: codes that the vocoder has not heard yet.
        ended: no more codes will come; finished: and all their sound is out.
    """

    sampler: Sampler
    track: TalkerState
    sound: VocoderState
    voice_row: Tensor
    sample_rate: int
    cache: CachedSequence = field(default_factory=CachedSequence)
    relay: Relay = field(default_factory=Relay)
    prompt_rows: Tensor | None = None
    position: int = 0
    codes: list[int] = field(default_factory=list)
    new_codes: list[int] = field(default_factory=list)
    num_samples: int = 0
    ended: bool = False
    finished: bool = False


@dataclass
class Request:
    """Attributes:
    given: batches of ids to be spoken word for word; None for an answer the model finds itself.
    next_id: the id that the thinker reads next.
    last_id: a limit has been met; `next_id` is the last of the answer.
    """

    prompt: Prompt
    seed: int
    clock: Clock
    eos_ids: frozenset[int]
    options: Options
    sampler: Sampler
    track: TextTrack
    text: TextState
    speech: Speech | None
    given: Iterator[list[int]] | None = None
    started: float = field(default_factory=time.perf_counter)
    media_read: float = 0.0
    cache: CachedSequence = field(default_factory=CachedSequence)
    next_id: int | None = None
    last_id: bool = False
    ids: list[int] = field(default_factory=list)
    text_ended: bool = False
    limit: Limit | None = None
    events: deque[Event] = field(default_factory=deque)
    prefilled: float | None = None
    first_text: float | None = None
    first_audio: float | None = None
    done: bool = False

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def cut(self, limit: Limit) -> None:
        """Remember the first limit that was met."""
        self.limit = self.limit or limit
