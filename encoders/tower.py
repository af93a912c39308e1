"""What a sense owes the thinker: rows of media, how many, and which parts of a medium it keeps apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from omni.encoders.features import Medium, Picture, Sound

M = TypeVar("M")


class Tower(Protocol[M]):
    """Makes rows of media."""

    def num_rows(self, medium: M) -> int:
        """Rows that a medium becomes."""

    def pieces(self, medium: M) -> Sequence[M]:
        """The parts of a medium of which none sees another: their rows, one behind the other, are the medium's.

        The same objects each time, so that their digests are found once.
        """

    def encode(self, media: Sequence[M]) -> list[Tensor]:
        """Rows `[num_rows, C]` of each medium."""


class Ears(Tower[Sound], Protocol):
    """A tower for sound, which can hear a sound that is still being made, block by block."""

    @property
    def block_frames(self) -> int:
        """Mel frames of each piece of a sound but the last."""


@dataclass(frozen=True)
class Senses:
    """The towers of a model as one, for media of either kind; a model may lack either."""

    ears: Ears | None
    eyes: Tower[Picture] | None

    def num_rows(self, medium: Medium) -> int:
        return self._ears.num_rows(medium) if isinstance(medium, Sound) else self._eyes.num_rows(medium)

    def pieces(self, medium: Medium) -> Sequence[Medium]:
        return self._ears.pieces(medium) if isinstance(medium, Sound) else self._eyes.pieces(medium)

    def encode(self, media: Sequence[Medium]) -> list[Tensor]:
        """Rows `[num_rows, C]` of each medium; those of a kind go through their tower together."""
        sounds = [medium for medium in media if isinstance(medium, Sound)]
        pictures = [medium for medium in media if isinstance(medium, Picture)]
        heard = iter(self._ears.encode(sounds) if sounds else [])
        seen = iter(self._eyes.encode(pictures) if pictures else [])
        return [next(heard if isinstance(medium, Sound) else seen) for medium in media]

    @property
    def _ears(self) -> Ears:
        assert self.ears, "no sound is read for a model that does not hear"
        return self.ears

    @property
    def _eyes(self) -> Tower[Picture]:
        assert self.eyes, "no picture is read for a model that does not see"
        return self.eyes
