"""What the protocol wants done, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from omni.streaming.audio.turn_detection import SemanticVad, ServerVad
from omni.streaming.realtime.items import Item, Part
from omni.streaming.realtime.playing import Playing

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Send:
    """An event for the client."""

    event: Json


@dataclass(frozen=True)
class Detect:
    """From now on listen for turns like this, or for none; a turn that had begun is over.

    rate: of the sound that comes; start_ms: where it begins, since the session did.
    """

    detection: ServerVad | SemanticVad | None
    rate: int
    start_ms: int


@dataclass(frozen=True)
class Hear:
    """Listen for turns in this sound, in the input's format, before anything else of the client is read."""

    format: str
    data: bytes


@dataclass(frozen=True)
class Listen:
    """The user begins to say something behind these items; what was read ahead of another beginning is void."""

    items: tuple[Item, ...]
    instructions: str
    voice: str | None
    tools: tuple[Json, ...]


@dataclass(frozen=True)
class Read:
    """More of what the user says, in the input's format: may be read ahead."""

    format: str
    data: bytes


@dataclass(frozen=True)
class Deaf:
    """What was read ahead is void, and nothing is being said."""


@dataclass(frozen=True)
class Answer:
    """Make an answer, and tell the protocol of it by `answered`.

    Attributes:
    items: what it answers to. They live: a `Cut` before this effect may still change their words.
        voice: speaks it; None for text alone.
        format: of its sound.
        tools: functions, as the model is told of them; must_call: one of them, or the one of this name, must be called.
        max_tokens: of its text; None for as many as it needs.
        remembers: the items are the whole conversation, so that what does not fit any more is forgotten for good.
        held: nothing of it may be told before `Release`.
        playing: of this answer's sound; shared by all that are played one after the other.
    """

    response_id: str
    items: tuple[Item, ...]
    instructions: str
    voice: str | None
    format: str
    speed: float
    tools: tuple[Json, ...]
    must_call: bool | str
    max_tokens: int | None
    remembers: bool
    held: bool
    playing: Playing


@dataclass(frozen=True)
class Release:
    """The turn has ended indeed: an answer that was held may be told."""

    response_id: str


@dataclass(frozen=True)
class Stop:
    """Make no more of an answer."""

    response_id: str


@dataclass(frozen=True)
class Cut:
    """Find out which words of an item had been heard after so many ms of its sound; tell by `heard`, giving this back.

    announced: the client asked for it, and waits to be told.
    """

    item_id: str
    response_id: str
    ms: int
    announced: bool


@dataclass(frozen=True)
class Transcribe:
    """Write down what was said in a part of an item; tell by `transcribed`."""

    item_id: str
    part: Part


@dataclass(frozen=True)
class Close:
    """End the connection, after all that was sent."""

    code: int
    reason: str


Effect: TypeAlias = Send | Detect | Hear | Listen | Read | Deaf | Answer | Release | Stop | Cut | Transcribe | Close
Media: TypeAlias = Mapping[str, bytes]
"""Verified files by the URL that named them."""
