"""One answer on its way, from prompt to the last sample."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import get_args

from torch import Tensor

from omni.engine.block_manager import CachedSequence
from omni.engine.kv_cache import SavedSequence
from omni.engine.options import Options
from omni.engine.outbox import Outbox
from omni.engine.scheduler import READING
from omni.engine.speech import Speech
from omni.engine.text import TextState, TextTrack
from omni.events import Done, FinishReason, Limit, TextDelta, Timings, TokenLogprob, Usage
from omni.kernels.sampling import Sampler
from omni.prompt.positions import Clock
from omni.prompt.prompt import MediaRun, Prompt


class Phase(IntEnum):
    """How far a request has come, in this order. One that is preempted keeps its phase."""

    WAITING = 0
    """For room."""
    PREFILL = 1
    """Its prompt is being read."""
    DECODE = 2
    """Its text is being found, or given and read."""
    LAST = 3
    """A limit has been met; the last id is still to be read."""
    DRAIN = 4
    """No more text will come; what follows the thinker goes on."""
    DONE = 5


@dataclass
class Request:
    """One answer.

    Attributes:
        clock: where its next token stands.
        key: the engine's name for it, larger for later ones.
        block_keys: of the prompt's whole blocks of rows, see `PromptReader.block_keys`.
        runs: of the media's rows that are still to be read.
        features: of media, by their index, until the prompt is read.
        rows, is_media: `[n, C]`, `[n]`, the prompt's rows that are still to be read, once all their media are encoded.
        script: ids to be spoken word for word; None for an answer that the model finds itself.
        prefill_only: it ends once its prompt is read, so that those that begin like it find that done; then: what is done
            with it before it ends.
        opening: ids that it begins with, whatever the model would say.
        next_id: the id that the thinker reads next.
        logprobs: of ids whose text has not been let out.
        saved: the rows of a request that was preempted, those of each stage.
        warnings: what its reader is told at its end; of the prompt's media, which are let go of once they are read, too.
    """

    prompt: Prompt
    seed: int
    clock: Clock
    options: Options
    sampler: Sampler
    track: TextTrack
    text: TextState
    speech: Speech | None
    phase: Phase = Phase.WAITING
    key: int = -1
    outbox: Outbox = field(default_factory=Outbox)
    block_keys: list[bytes] = field(default_factory=list)
    runs: tuple[MediaRun, ...] = ()
    features: dict[int, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None
    is_media: Tensor | None = None
    script: list[int] | None = None
    prefill_only: bool = False
    then: Callable[[], None] | None = None
    started: float = field(default_factory=time.perf_counter)
    media_read: float = 0.0
    cache: CachedSequence = field(default_factory=CachedSequence)
    saved: list[SavedSequence] | None = None
    opening: list[int] = field(default_factory=list)
    next_id: int | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    limits: set[Limit] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    prefilled: float | None = None
    first_text: float | None = None
    first_audio: float | None = None

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def text_ended(self) -> bool:
        return self.phase >= Phase.DRAIN

    @property
    def is_preempted(self) -> bool:
        return self.saved is not None

    @property
    def num_unread(self) -> int:
        """Rows of the prompt that the thinker has still to read."""
        return max(0, self.prompt.num_tokens - self.cache.length)

    @property
    def due(self) -> float | None:
        """When what was delivered will have been heard, or read; None before the first of it."""
        if self.speech:
            return self.speech.due
        return None if self.first_text is None else self.started + self.first_text + len(self.ids) / READING.per_second

    def wanted_media(self) -> list[int]:
        """Media whose rows are to be read and not encoded yet, in prompt order."""
        return [i for i in dict.fromkeys(run.index for run in self.runs) if i not in self.features]

    def write(self, text: str) -> None:
        """Let text out."""
        if text:
            if self.first_text is None:
                self.first_text = self.elapsed()
            self.outbox.put(self.key, TextDelta(text, tuple(self.logprobs)))
            self.logprobs.clear()

    def outcome(self, *, interrupted: bool = False) -> Done:
        """What its reader is told at its end."""
        limits = tuple(limit for limit in get_args(Limit) if limit in self.limits)
        reason: FinishReason = "interrupted" if interrupted else "length" if limits else "stop"
        codes = self.speech.codes if self.speech else ()
        timings, warnings = self._timings(), tuple(self.warnings)
        return Done(reason, limits, self.seed, self._usage(len(codes)), timings, tuple(self.ids), codes, warnings)

    def _usage(self, num_codes: int) -> Usage:
        prompt = self.prompt
        return Usage(
            prompt_tokens=prompt.num_tokens,
            image_tokens=prompt.image_tokens,
            video_tokens=prompt.video_tokens,
            audio_tokens=prompt.audio_tokens,
            text_tokens=len(self.ids),
            codec_tokens=num_codes,
        )

    def _timings(self) -> Timings:
        return Timings(
            media=self.media_read,
            prefill=self.prefilled or 0.0,
            first_text=self.first_text,
            first_audio=self.first_audio,
            total=self.elapsed(),
            audio=self.speech.seconds if self.speech else 0.0,
        )
