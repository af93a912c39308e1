"""One answer on its way, from prompt to the last sample."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from omni.cache import CachedSequence
from omni.engine.options import Options
from omni.engine.relay import Relay
from omni.engine.text import TextState, TextTrack
from omni.events import Event, Failed, Limit, TextDelta
from omni.positions import Clock
from omni.prompt import Prompt
from omni.sampler import Sampler
from omni.talker.dual_track import TalkerState
from omni.talker.vocoder import VocoderState


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
    limits: list[Limit] = field(default_factory=list)
    events: deque[Event | Failed] = field(default_factory=deque)
    prefilled: float | None = None
    first_text: float | None = None
    first_audio: float | None = None
    done: bool = False

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def cut(self, limit: Limit) -> None:
        """Remember a limit that was met."""
        if limit not in self.limits:
            self.limits.append(limit)

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
