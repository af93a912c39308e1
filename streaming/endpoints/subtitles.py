"""Transcripts as subtitles: SubRip and WebVTT, in cues that can be read while they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from omni.events import Segment, Word

MOST_CHARS, MOST_SECONDS = 84, 7.0
"""Of a cue: two lines, as broadcasters have it."""
SENTENCE_ENDS = tuple(".?!\u2026\u3002\uff1f\uff01\u0964\u061f")
"""Of a full cue the part up to the last of these is shown by itself, where it is this share of it or more."""
LEAST_SHARE = 0.4


@dataclass(frozen=True)
class Cue:
    """A line, and the seconds between which it is shown."""

    start: float
    end: float
    text: str


def cues(segments: Sequence[Segment]) -> Iterator[Cue]:
    """One for each segment that says something, or several where it is long and the times of its words are known."""
    for segment in segments:
        text = " ".join(segment.text.split())
        if not text:
            continue
        if segment.words and (len(text) > MOST_CHARS or segment.end - segment.start > MOST_SECONDS):
            yield from _split(text, segment.words)
        else:
            yield Cue(segment.start, segment.end, text)


def _split(text: str, words: Sequence[Word]) -> Iterator[Cue]:
    """Cues of a text, cut between its words."""
    starts, at = list[int](), 0
    for word in words:
        at = text.find(word.text, at)
        assert at >= 0, "words are parts of their segment's text"
        starts.append(at)
        at += len(word.text)
    ends = [*starts[1:], len(text)]
    first = 0
    while first < len(words):
        last = first + 1
        while (
            last < len(words)
            and ends[last] - starts[first] <= MOST_CHARS
            and words[last].end - words[first].start <= MOST_SECONDS
        ):
            last += 1
        if last < len(words):
            least = first + LEAST_SHARE * (last - first)
            sentences = [i for i in range(first + 1, last + 1) if words[i - 1].text.endswith(SENTENCE_ENDS) and i >= least]
            last = sentences[-1] if sentences else last
        yield Cue(words[first].start, words[last - 1].end, text[starts[first] : ends[last - 1]].strip())
        first = last


def srt(segments: Sequence[Segment]) -> str:
    """SubRip's file."""
    told = enumerate(cues(segments), 1)
    return "".join(f"{i}\n{_clock(c.start, ',')} --> {_clock(c.end, ',')}\n{c.text}\n\n" for i, c in told)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT's file."""
    told = (f"{_clock(c.start, '.')} --> {_clock(c.end, '.')}\n{escape(c.text, quote=False)}\n\n" for c in cues(segments))
    return "WEBVTT\n\n" + "".join(told)


def _clock(seconds: float, point: str) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
