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
from omni.events import Event, Failed, Limit, TextDelta
from omni.positions import Clock
from omni.prompt import Prompt
from omni.sampler import Sampler, Sampling
from omni.talker.dual_track import Talker, TalkerState
from omni.talker.vocoder import CODES_PER_SECOND, STREAMED, ChunkPolicy, VocoderState

VOICE_SAMPLING = Sampling(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.05)
"""As transformers samples codec ids."""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
    stop: str | Sequence[str] | None


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
    stop: str | Sequence[str] | None = ()
    seed: int | None = None
    chunks: ChunkPolicy = STREAMED

    def __post_init__(self) -> None:
        if not _is_int(self.max_tokens) or self.max_tokens < 1:
            raise OptionError(f"max_tokens is {self.max_tokens!r}; give a whole number from 1 on")
        shortest = 1 / CODES_PER_SECOND
        if not _is_number(self.max_audio_seconds) or not shortest <= self.max_audio_seconds < float("inf"):
            raise OptionError(f"max_audio_seconds is {self.max_audio_seconds!r}; give a number from {shortest} on")
        if not all(isinstance(s, str) and s for s in self.stop_strings):
            raise OptionError(f"stop is {self.stop!r}; give strings of at least one character")
        if self.seed is not None and not (_is_int(self.seed) and 0 <= self.seed < 2**62):
            raise OptionError(f"seed is {self.seed!r}; give a whole number from 0 to 2**62 - 1")
        _ = self.sampling  # checks its own ranges

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def max_codes(self) -> int:
        return round(self.max_audio_seconds * CODES_PER_SECOND)


@dataclass
class Speech:
    """The spoken side of an answer.

    Attributes:
        voice_row: the thinker's embedding of the voice's id, `[C]`.
        prompt_rows: `[P, talker hidden]`, freed once the talker has read them.
        relay: thoughts that wait for their text to be let out.
        position: of the next codec step, the same on all axes.
        new_codes: codes that the vocoder has not heard yet.
        ended: no more codes will come; finished: and all their sound is out.
    """

    talker: Talker
    sampler: Sampler
    track: TalkerState
    sound: VocoderState
    voice_row: Tensor
    cache: CachedSequence = field(default_factory=CachedSequence)
    relay: Relay = field(default_factory=Relay)
    prompt_rows: Tensor | None = None
    position: int = 0
    codes: list[int] = field(default_factory=list)
    new_codes: list[int] = field(default_factory=list)
    num_samples: int = 0
    ended: bool = False
    finished: bool = False

    def hear_prompt(self, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> None:
        """Keep what the talker will read of the prompt; arguments as `Talker.prompt_rows`."""
        self.prompt_rows = self.talker.prompt_rows(hidden, embedded, is_media)


@dataclass
class Request:
    """One answer.

    Attributes:
        clock: where its next token stands.
        given: batches of ids to be spoken word for word; None for an answer the model finds itself.
        piece: the batch that has come last and not been read; `given_ended`: no other will come.
        next_id: the id that the thinker reads next.
        last_id: a limit has been met; `next_id` is the last of the answer.
    """

    prompt: Prompt
    seed: int
    clock: Clock
    options: Options
    sampler: Sampler
    track: TextTrack
    text: TextState
    speech: Speech | None
    given: Iterator[list[int]] | None = None
    piece: list[int] | None = None
    given_ended: bool = False
    started: float = field(default_factory=time.perf_counter)
    media_read: float = 0.0
    cache: CachedSequence = field(default_factory=CachedSequence)
    next_id: int | None = None
    last_id: bool = False
    ids: list[int] = field(default_factory=list)
    text_ended: bool = False
    limit: Limit | None = None
    events: deque[Event | Failed] = field(default_factory=deque)
    prefilled: float | None = None
    first_text: float | None = None
    first_audio: float | None = None
    done: bool = False

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def cut(self, limit: Limit) -> None:
        """Remember the first limit that was met."""
        self.limit = self.limit or limit

    def fetch(self) -> None:
        """Wait for the next piece of given text, where the talker has no thought left and would stand still."""
        if self.given is None or self.given_ended or (self.speech and self.speech.track.rows and not self.speech.ended):
            return
        # once the speech has met its limit, nothing more is asked of whoever writes the text
        self.piece = None if self.speech and self.speech.ended else next(self.given, None)
        self.given_ended = self.piece is None

    def write(self, text: str) -> None:
        """Let text out."""
        if text:
            if self.first_text is None:
                self.first_text = self.elapsed()
            self.events.append(TextDelta(text))

    def think(self, thoughts: Tensor) -> None:
        """New thoughts `[n, C]`, of ids whose text has been written or waits."""
        if self.speech:
            # the text of an id that ends inside a character is yet to come
            made = self.text.num_made + bool(self.text.decoding.tail)
            for thought in thoughts:
                self.speech.relay.put(thought, made)
        self.relay()

    def relay(self) -> None:
        """Hand the talker the thoughts whose text has been let out."""
        if self.speech:
            self.speech.track.rows.extend(self.speech.relay.take(self.text.num_released))
