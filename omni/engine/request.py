"""One answer on its way, from prompt to the last sample."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from omni.engine.options import Options
from omni.engine.outbox import Outbox
from omni.engine.relay import Relay
from omni.engine.text import TextState, TextTrack
from omni.events import Limit, TextDelta, TokenLogprob
from omni.kernels.sampling import Sampler
from omni.models.kv_store import CachedSequence, SavedSequence
from omni.prompt.positions import Clock
from omni.prompt.reader import MediaRun, Prompt
from omni.talker.dual_track import TalkerState
from omni.talker.vocoder import VocoderState


@dataclass
class Speech:
    """The spoken side of an answer.

    Attributes:
        voice_row: the thinker's embedding of the voice's id, `[C]`.
        prompt_rows: `[n, talker hidden]` each, those of the prompt that the talker has not read yet, in order.
        relay: thoughts that wait for their text to be let out.
        position: of the next codec step, the same on all axes.
        due: when the sound that was delivered will have been played; None before the first.
        ended: no more codes will come.
    """

    sampler: Sampler
    track: TalkerState
    sound: VocoderState
    voice_row: Tensor
    cache: CachedSequence = field(default_factory=CachedSequence)
    relay: Relay = field(default_factory=Relay)
    prompt_rows: list[Tensor] = field(default_factory=list)
    position: int = 0
    codes: list[int] = field(default_factory=list)
    num_samples: int = 0
    due: float | None = None
    ended: bool = False


@dataclass
class Request:
    """One answer.

    Attributes:
        clock: where its next token stands.
        key: the engine's name for it, larger for later ones.
        page_keys: of the prompt's whole pages, see `Prompt.page_keys`.
        runs: of the media's rows that are still to be read.
        features: of media, by (is a sound, index), until the prompt is read.
        rows, is_media: `[n, C]`, `[n]`, the prompt's rows that are still to be read, once all their media are encoded.
        given: ids to be spoken word for word that have not been read; None for an answer that the model finds itself.
        given_ended: no others will come; hungry: its reader was asked for more.
        only_reads: it ends once its prompt is read, so that those that begin like it find that done; then: what is done with
            it before it ends.
        next_id: the id that the thinker reads next.
        last_id: a limit has been met; `next_id` is the last of the answer.
        logprobs: of ids whose text has not been let out.
        mute_ids: from the first of them on, the answer is written and not spoken; muted: one has come.
        saved: the rows of a request that was set aside to make room for others, thinker's and talker's.
    """

    prompt: Prompt
    seed: int
    clock: Clock
    options: Options
    sampler: Sampler
    track: TextTrack
    text: TextState
    speech: Speech | None
    key: int = -1
    outbox: Outbox = field(default_factory=Outbox)
    page_keys: list[bytes] = field(default_factory=list)
    runs: tuple[MediaRun, ...] = ()
    features: dict[tuple[bool, int], Tensor] = field(default_factory=dict)
    rows: Tensor | None = None
    is_media: Tensor | None = None
    given: list[int] | None = None
    given_ended: bool = False
    hungry: bool = False
    only_reads: bool = False
    then: Callable[[], None] | None = None
    started: float = field(default_factory=time.perf_counter)
    media_read: float = 0.0
    cache: CachedSequence = field(default_factory=CachedSequence)
    saved: list[SavedSequence] | None = None
    next_id: int | None = None
    last_id: bool = False
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    mute_ids: frozenset[int] = frozenset()
    muted: bool = False
    text_ended: bool = False
    limits: set[Limit] = field(default_factory=set)
    prefilled: float | None = None
    first_text: float | None = None
    first_audio: float | None = None
    done: bool = False

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def is_aside(self) -> bool:
        return self.saved is not None

    @property
    def num_unread(self) -> int:
        """Rows of the prompt that the thinker has still to read."""
        return max(0, self.prompt.num_tokens - self.cache.length)

    def wanted_media(self) -> list[tuple[bool, int]]:
        """Media whose rows are to be read and not encoded yet, in prompt order."""
        named = dict.fromkeys((run.is_sound, run.index) for run in self.runs)
        return [name for name in named if name not in self.features]

    def write(self, text: str) -> None:
        """Let text out."""
        if text:
            if self.first_text is None:
                self.first_text = self.elapsed()
            self.outbox.put(self.key, TextDelta(text, tuple(self.logprobs)))
            self.logprobs.clear()

    def think(self, thoughts: Tensor) -> None:
        """New thoughts `[n, C]`, of ids whose text has been written or waits."""
        if self.speech and not self.muted:
            # the text of an id that ends inside a character is yet to come
            made = self.text.num_made + bool(self.text.decoding.tail)
            for thought in thoughts.to(self.speech.voice_row):
                self.speech.relay.put(thought, made)
        self.relay()

    def relay(self) -> None:
        """Hand the talker the thoughts whose text has been let out."""
        if self.speech:
            self.speech.track.rows.extend(self.speech.relay.take(self.text.num_released))
            self.speech.track.text_ended |= self.muted and not self.speech.relay.held
