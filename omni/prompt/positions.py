"""TMRoPE: the time, height and width of every token of a prompt (Qwen2.5-Omni report, section 2.1; M-RoPE, Qwen2-VL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

Cells: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class TextSpan:
    """Tokens that stand for themselves, and the markers around media."""

    ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AudioSpan:
    """A sound of so many rows, 25 a second."""

    num_tokens: int


@dataclass(frozen=True)
class ImageSpan:
    """A still image of (1, rows, columns) merged cells."""

    cells: Cells

    @property
    def num_tokens(self) -> int:
        return _product(self.cells)


@dataclass(frozen=True)
class VideoSpan:
    """A video of (time, rows, columns) merged cells, without sound.

    Attributes:
        times: seconds of each of its grids after its beginning; None where they are `second_per_grid` apart.
    """

    cells: Cells
    second_per_grid: float
    times: tuple[float, ...] | None = None

    @property
    def num_tokens(self) -> int:
        return _product(self.cells)


@dataclass(frozen=True)
class AudioVideoSpan:
    """A video and its sound, in runs of 2 s that alternate; both start markers share a position, both end markers too."""

    video: VideoSpan
    audio: AudioSpan

    @property
    def num_tokens(self) -> int:
        return 4 + self.video.num_tokens + self.audio.num_tokens


Span: TypeAlias = TextSpan | AudioSpan | ImageSpan | VideoSpan | AudioVideoSpan


@dataclass
class Clock:
    """Where the next token of a sequence stands.

    Attributes:
        per_second: positions a second of video takes.
        chunk: positions of one run of video or of sound in `AudioVideoSpan`.
        next: start of the next span; one past the largest position of the span before it, and of that one only.
        top: the largest position so far, on any axis.
    """

    per_second: int
    chunk: int
    next: int = 0
    top: int = field(default=-1)

    def place(self, spans: Sequence[Span]) -> Tensor:
        """Positions int64 `[3, N]` of the next spans."""
        rows = [self._one(span) for span in spans]
        return torch.cat(rows, 1) if rows else torch.empty(3, 0, dtype=torch.int64)

    def text(self, num_tokens: int) -> Tensor:
        """Positions int64 `[3, num_tokens]` of more text."""
        return self._append(torch.arange(num_tokens).expand(3, -1) + self.next)

    def _append(self, rows: Tensor) -> Tensor:
        if rows.shape[1]:
            last = int(rows.max())
            self.next, self.top = last + 1, max(self.top, last)
        return rows

    def _one(self, span: Span) -> Tensor:
        match span:
            case TextSpan() | AudioSpan():
                return self.text(span.num_tokens)
            case ImageSpan():
                return self._append(_grid(span.cells, torch.zeros(1, dtype=torch.int64)) + self.next)
            case VideoSpan():
                return self._append(_grid(span.cells, self._when(span)) + self.next)
            case AudioVideoSpan():
                marker = self.text(1)
                start = self.next
                video = _grid(span.video.cells, self._when(span.video)) + start
                audio = torch.arange(span.audio.num_tokens).expand(3, -1) + start
                pieces = [self._append((video, audio)[track][:, first:last]) for track, first, last in self.runs(span)]
                end = self.text(1)
                return torch.cat((marker, marker, *pieces, end, end), 1)

    def _when(self, span: VideoSpan) -> Tensor:
        """Positions of its grids after its beginning."""
        if span.times is not None:
            return torch.tensor([round(time * self.per_second) for time in span.times])
        t = torch.arange(span.cells[0])
        return (t * torch.tensor(span.second_per_grid, dtype=torch.float32) * self.per_second).long()

    def runs(self, span: AudioVideoSpan) -> list[tuple[int, int, int]]:
        """The order of a video and its sound: (0 for video or 1 for sound, first token, one past the last) of each run."""
        t, h, w = span.video.cells
        if span.video.times is not None:
            video = self._cut_at(self._when(span.video).repeat_interleave(h * w))
            audio = self._cut_at(torch.arange(span.audio.num_tokens))
        else:
            when = [k * span.video.second_per_grid * self.per_second for k in range(t) for _ in range(h * w)]
            video, audio = self._cut(when), self._cut(range(span.audio.num_tokens))
        runs = []
        for j in range(max(len(video), len(audio))):
            runs += [(track, *cut[j]) for track, cut in enumerate((video, audio)) if j < len(cut) and cut[j][0] < cut[j][1]]
        return runs

    def _cut_at(self, when: Tensor) -> list[tuple[int, int]]:
        """Runs of `chunk` positions each, some of which may be empty."""
        last = int(when[-1]) // self.chunk if len(when) else 0
        cuts = torch.searchsorted(when, torch.arange(last + 2) * self.chunk).tolist()
        return list(pairwise(cuts))

    def _cut(self, when: Sequence[float]) -> list[tuple[int, int]]:
        """A new run opens at most once a token, when its time reaches the next multiple of `chunk`."""
        cuts = [0]
        for i, value in enumerate(when):
            if value >= len(cuts) * self.chunk:
                cuts.append(i)
        return list(zip(cuts, [*cuts[1:], len(when)], strict=True))


def _grid(cells: Cells, time: Tensor) -> Tensor:
    _, h, w = cells
    axes = torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack(axes).flatten(1)  # [3, t * h * w]


def _product(cells: Cells) -> int:
    t, h, w = cells
    return t * h * w
