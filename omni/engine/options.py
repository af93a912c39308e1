"""How an answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

from omni.errors import OptionError
from omni.kernels.sampling import Sampling
from omni.talker.voice import STREAMED, ChunkPolicy

MAX_LOGPROBS = 20
MAX_AUDIO_SECONDS = 300.0
"""Of an answer's speech, where nothing else is said."""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class SpeechArgs(TypedDict, total=False):
    """The fields of `Options` that shape speech, for calls that take them one by one."""

    max_audio_seconds: float | None
    voice_sampling: Sampling | None
    seed: int | None
    chunks: ChunkPolicy


class OptionArgs(SpeechArgs, total=False):
    """All fields of `Options`, for calls that take them one by one."""

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    stop: str | Sequence[str] | None
    logprobs: int | None


@dataclass(frozen=True)
class Options:
    """How an answer is made.

    Attributes:
        max_tokens: of text.
        max_audio_seconds: of speech; None for MAX_AUDIO_SECONDS of an answer, and for given words as long as they take.
        temperature, top_k, top_p, repetition_penalty: of text; None for the checkpoint's own, which is greedy unless its
            `generation_config.json` says otherwise. Temperature 0 is greedy.
        voice_sampling: of codec ids; None as the model's voice was released.
        stop: a string, or several, that end the answer; neither written nor spoken.
        logprobs: tell how likely each token was, and so many of the likeliest at its place; None tells nothing.
        seed: of every random draw; None for a new one each time.
        chunks: how streamed speech is cut into pieces.
    """

    max_tokens: int = 1024
    max_audio_seconds: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    voice_sampling: Sampling | None = None
    stop: str | Sequence[str] | None = ()
    logprobs: int | None = None
    seed: int | None = None
    chunks: ChunkPolicy = STREAMED

    def __post_init__(self) -> None:
        if not _is_int(self.max_tokens) or self.max_tokens < 1:
            raise OptionError(f"max_tokens is {self.max_tokens!r}; give a whole number from 1 on")
        longest = self.longest_speech
        if not _is_number(longest) or not 0 < longest < float("inf"):
            raise OptionError(f"max_audio_seconds is {self.max_audio_seconds!r}; give a number above 0")
        if not all(isinstance(s, str) and s for s in self.stop_strings):
            raise OptionError(f"stop is {self.stop!r}; give strings of at least one character")
        if self.logprobs is not None and not (_is_int(self.logprobs) and 0 <= self.logprobs <= MAX_LOGPROBS):
            raise OptionError(f"logprobs is {self.logprobs!r}; give a whole number from 0 to {MAX_LOGPROBS}, or None")
        if self.seed is not None and not (_is_int(self.seed) and 0 <= self.seed < 2**62):
            raise OptionError(f"seed is {self.seed!r}; give a whole number from 0 to 2**62 - 1")
        self.sampling(Sampling())  # checks its own ranges

    def sampling(self, own: Sampling) -> Sampling:
        """How ids of text are picked; `own` is the checkpoint's way, for what was not said."""
        return Sampling(
            *(said if (said := getattr(self, f.name)) is not None else getattr(own, f.name) for f in fields(own))
        )

    @property
    def longest_speech(self) -> float:
        """Of an answer, in seconds."""
        return MAX_AUDIO_SECONDS if self.max_audio_seconds is None else self.max_audio_seconds

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
