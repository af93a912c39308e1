"""What the loop asks of a part of the way from prompt to sound. It knows stages by this protocol alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from omni.engine.block_manager import CachedSequence
from omni.engine.request import Request
from omni.engine.runner import ModelRunner
from omni.engine.scheduler import Kind


class Stage(Protocol):
    """A part of the way, with a decoder. A request that has nothing to do there is over there from the start."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The work that is done here and nowhere else."""

    @property
    def runner(self) -> ModelRunner:
        """The decoder, in whose cache a request needs places for its prompt before it may begin."""

    @property
    def num_opening_rows(self) -> int:
        """Rows behind a prompt that any answer needs here."""

    def sequence(self, request: Request) -> CachedSequence | None:
        """What a request holds in that cache; None where it takes no part."""

    def begin(self, request: Request) -> None:
        """A request comes in: begin with what the cache holds already. Later stages begin before earlier ones."""

    def ready(self, request: Request) -> Mapping[Kind, int]:
        """What could be done for it now, and rows of it, at least one."""

    def run(self, kind: Kind, parts: Sequence[tuple[Request, int]]) -> None:
        """One step for several requests that are ready for it, and so many of their rows."""

    def is_over(self, request: Request) -> bool:
        """Whether nothing more will come of it here."""


class Listener(Protocol):
    """What the thinker's stage hands its rows on to."""

    def needs(self, request: Request) -> int:
        """The first row of the prompt that has to be handed on; the prompt's length where none has."""

    def hear(self, request: Request, first: int, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> None:
        """Rows of the prompt from `first` on: hidden rows and input rows `[n, C]`, bool `[n]`."""

    def think(self, request: Request, hidden: Tensor, embedded: Tensor) -> None:
        """Rows `[n, C]` of ids of the answer, whose text has been written or waits."""

    def end_text(self, request: Request) -> None:
        """The text has ended, and all of it that is valid was let out."""
