"""What the thinker reads: ids, positions, and which rows of which media go where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni.encoders.features import Medium, Picture, Sound
from omni.models.config import MediaIds
from omni.prompt.positions import AudioSpan, AudioVideoSpan, Clock, ImageSpan, Span, TextSpan, VideoSpan


@dataclass(frozen=True)
class MediaRun:
    """Rows `first` to `last` of the `index`-th medium; the rows of all media, in prompt order, are a list of runs."""

    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Prompt:
    """What the thinker reads.

    Attributes:
        ids: int64 `[N]`, placeholders expanded to one a row.
        positions: int64 `[3, N]`.
        clock: where the sequence goes on.
        media: in the order of their first rows.
        runs: the media's rows in the order of their placeholders.
        is_media: bool `[N]`, the placeholders.
        salt: of whoever may find in a cache what was computed for this prompt.
    """

    ids: Tensor
    positions: Tensor
    clock: Clock
    media: tuple[Medium, ...]
    runs: tuple[MediaRun, ...]
    is_media: Tensor
    image_tokens: int
    video_tokens: int
    audio_tokens: int
    salt: bytes = b""

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def pictures(self) -> list[Picture]:
        return [medium for medium in self.media if isinstance(medium, Picture)]

    @property
    def sounds(self) -> list[Sound]:
        return [medium for medium in self.media if isinstance(medium, Sound)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was lost of its media, a sentence each."""
        return tuple(dict.fromkeys(warning for medium in self.media for warning in medium.warnings))

    def rows_of(self, index: int) -> int:
        """Rows that a medium has."""
        return max(run.last for run in self.runs if run.index == index)

    @property
    def num_to_media_end(self) -> int:
        """Rows up to the last of a medium."""
        return int(self.is_media.nonzero()[-1]) + 1

    def head(self, num_rows: int) -> Prompt:
        """Its first rows."""
        runs, left = list[MediaRun](), int(self.is_media[:num_rows].sum())
        for run in self.runs:
            if left:
                runs.append(replace(run, last=min(run.last, run.first + left)))
                left -= runs[-1].last - runs[-1].first
        return replace(
            self,
            ids=self.ids[:num_rows],
            positions=self.positions[:, :num_rows],
            is_media=self.is_media[:num_rows],
            runs=tuple(runs),
        )

    def before_last(self) -> Prompt:
        """What stands before its last medium, with a clock that stands there."""
        run = self.runs[-1]
        end = self.num_to_media_end - (run.last - run.first)
        clock = replace(self.clock, next=int(self.positions[0, end]))
        return replace(self.head(end), clock=clock, media=self.media[:-1])

    def runs_after(self, row: int) -> tuple[MediaRun, ...]:
        """The media's rows from a row of the prompt on."""
        skip = int(self.is_media[:row].sum())
        runs = []
        for run in self.runs:
            size = run.last - run.first
            if skip < size:
                runs.append(replace(run, first=run.first + skip))
            skip = max(0, skip - size)
        return tuple(runs)

    def clock_after(self) -> Clock:
        """A clock of one's own that stands at the end of the prompt."""
        return replace(self.clock)


def text_prompt(ids: Sequence[int], clock: Clock) -> Prompt:
    """The prompt of ids that all stand for themselves."""
    rows, is_media = torch.tensor(ids), torch.zeros(len(ids), dtype=torch.bool)
    return Prompt(rows, clock.text(len(ids)), clock, (), (), is_media, 0, 0, 0)


def fill(spans: Sequence[Span], known: MediaIds, clock: Clock, media: tuple[Medium, ...]) -> Prompt:
    """The prompt of some spans: ids with one placeholder a row, positions by `clock`, and which rows go where.

    media: of the spans in their order, a clip before its sound.
    """
    ids: list[int] = []
    runs: list[MediaRun] = []
    count = {known.image: 0, known.video: 0, known.audio: 0}
    index = 0

    def put(token: int, run: MediaRun) -> None:
        ids.extend([token] * (run.last - run.first))
        count[token] += run.last - run.first
        runs.append(run)

    for span in spans:
        match span:
            case TextSpan():
                ids += span.ids
            case AudioSpan() | ImageSpan() | VideoSpan():
                put(_token(span, known), MediaRun(index, 0, span.num_tokens))
                index += 1
            case AudioVideoSpan():
                ids += (known.vision_start, known.audio_start)
                for track, first, last in clock.runs(span):
                    put(known.audio if track else known.video, MediaRun(index + track, first, last))
                ids += (known.audio_end, known.vision_end)
                index += 2
    positions = clock.place(spans)
    assert positions.shape[1] == len(ids)
    rows = torch.tensor(ids)
    is_media = torch.isin(rows, torch.tensor(list(count)))
    return Prompt(
        rows, positions, clock, media, tuple(runs), is_media,
        count[known.image], count[known.video], count[known.audio],
    )  # fmt: skip


def _token(span: AudioSpan | ImageSpan | VideoSpan, known: MediaIds) -> int:
    """What stands for each row of a medium alone."""
    match span:
        case AudioSpan():
            return known.audio
        case ImageSpan():
            return known.image
        case VideoSpan():
            return known.video
