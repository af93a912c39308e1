"""What a model can do, and what a running request tells its caller, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.errors import OmniError

Limit: TypeAlias = Literal["text", "audio", "context"]
FinishReason: TypeAlias = Literal["stop", "length", "interrupted"]

VERBS = {"hears": "hear", "sees": "see", "speaks": "speak", "calls": "call functions"}


@dataclass(frozen=True)
class Capabilities:
    """What a model can do beside reading and writing: hear sounds, see pictures and clips, speak, call functions."""

    hears: bool
    sees: bool
    speaks: bool
    calls: bool = True

    @property
    def lacks(self) -> str:
        """What it cannot do, as a sentence has it: "hear, see or speak"; empty where it can do all."""
        verbs = [VERBS[field.name] for field in fields(self) if not getattr(self, field.name)]
        return " or ".join(filter(None, (", ".join(verbs[:-1]), *verbs[-1:])))


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token: its bytes; of a character that several tokens make up, a part.
        logprob: natural, of the model's own odds, before temperature and cuts.
        top: the likeliest tokens at its place, (bytes, logprob), likeliest first.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text.

    Attributes:
        logprobs: of the tokens found since the delta before, where they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class AudioChunk:
    """More of the answer's sound.

    Attributes:
        samples: float32 `[S]` in -1..1, mono.
        sample_rate: in Hz.
        start: index of the first sample in the whole answer.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    start: int


@dataclass(frozen=True)
class Usage:
    """Tokens that went in (of them for pictures, clips and sounds) and came out, and codec ids spoken."""

    prompt_tokens: int
    image_tokens: int
    video_tokens: int
    audio_tokens: int
    text_tokens: int
    codec_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds from the call until media were read, the prompt was read, first text, first sound and the end.

    Attributes:
        first_text, first_audio: None where there was none.
        audio: seconds of sound that were made.
    """

    media: float
    prefill: float
    first_text: float | None
    first_audio: float | None
    total: float
    audio: float

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work for a second of sound; None without sound."""
        return self.total / self.audio if self.audio else None


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        finish_reason: "stop" when the model ended by itself or met a stop string, "length" when a limit did, "interrupted"
            when its session did.
        limits: which, in this order: "text" (max_tokens), "audio" (max_audio_seconds), "context" (the model's longest
            sequence).
        seed: gives the same answer again.
        token_ids, codes: the answer's text and speech as the model's own ids.
        warnings: what was passed over or lost on the way, a sentence each: damaged parts of media, words without a sound.
    """

    finish_reason: FinishReason
    limits: tuple[Limit, ...]
    seed: int
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] = field(repr=False)
    codes: tuple[int, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def limit(self) -> Limit | None:
        """The first of the limits that were met."""
        return self.limits[0] if self.limits else None


@dataclass(frozen=True)
class Failed:
    """The end of an answer that could not be finished; callers of `Omni` get the error raised instead."""

    error: OmniError


Event: TypeAlias = TextDelta | AudioChunk | Done


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        audio: float32 `[S]` in -1..1, mono, or None where no speech was asked for.
        sample_rate: of the sound, in Hz.
        done: how the answer ended.
    """

    text: str
    audio: NDArray[np.float32] | None
    sample_rate: int
    done: Done

    @property
    def finish_reason(self) -> FinishReason:
        return self.done.finish_reason

    @property
    def limit(self) -> Limit | None:
        return self.done.limit

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.done.limits

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.done.warnings

    @property
    def usage(self) -> Usage:
        return self.done.usage

    @property
    def timings(self) -> Timings:
        return self.done.timings


def collect(events: Iterable[Event | Failed], sample_rate: int, *, spoken: bool) -> Reply:
    """The whole answer that a stream of events makes up; raises what ended it."""
    text: list[str] = []
    sound = [np.empty(0, np.float32)]
    for event in events:
        match event:
            case TextDelta():
                text.append(event.text)
            case AudioChunk():
                sound.append(event.samples)
            case Failed():
                raise event.error
            case Done():
                return Reply("".join(text), np.concatenate(sound) if spoken else None, sample_rate, event)
    raise AssertionError("a stream ends with Done")
