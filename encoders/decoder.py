"""Who decodes: pictures, sounds and clips to pixels and samples, in this process or in another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from PIL import Image

from omni.encoders.clips import Clip, VideoSource, open_clip
from omni.encoders.pictures import ImageSource, read_image
from omni.encoders.sampling import Sampling
from omni.encoders.sources import Budget, Tell
from omni.encoders.waves import AudioSource, Wave, read_audio


class Decoder(Protocol):
    """Gives what `read_image`, `read_audio` and `open_clip` give, to the bit, and raises and tells what they do.

    CapacityError: there is no room to decode it now.
    """

    def picture(self, source: ImageSource, budget: Budget, tell: Tell) -> Image.Image: ...

    def sound(
        self,
        source: AudioSource,
        rate: int,
        budget: Budget,
        tell: Tell,
        *,
        origin: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Wave: ...

    def clip(self, source: VideoSource, asked: Sampling, budget: Budget, tell: Tell) -> AbstractContextManager[Clip]: ...

    def retell(self, sentences: Sequence[str]) -> None:
        """What was lost of a medium that was decoded before, and is shown again."""


class Here:
    """Decodes in this process."""

    def picture(self, source: ImageSource, budget: Budget, tell: Tell) -> Image.Image:
        return read_image(source, budget, tell=tell)

    def sound(
        self,
        source: AudioSource,
        rate: int,
        budget: Budget,
        tell: Tell,
        *,
        origin: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Wave:
        return read_audio(source, rate, budget, origin=origin, start=start, end=end, tell=tell)

    def clip(self, source: VideoSource, asked: Sampling, budget: Budget, tell: Tell) -> AbstractContextManager[Clip]:
        return open_clip(source, asked, budget, tell)

    def retell(self, sentences: Sequence[str]) -> None:
        pass  # the prompt's own warnings hold them


HERE = Here()
