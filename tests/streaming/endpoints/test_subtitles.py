"""Transcripts as subtitles."""

from __future__ import annotations

from omni.events import Word
from omni.streaming.endpoints.subtitles import MOST_CHARS, MOST_SECONDS, cues, srt, vtt
from tests.streaming.doubles import segment


def timed(text: str, start: float, each: float) -> tuple[Word, ...]:
    return tuple(Word(word, start + i * each, start + (i + 1) * each) for i, word in enumerate(text.split()))


def test_files() -> None:
    said = [segment("One < two\n--> three", 0.0, 1.5), segment(""), segment("Four & five", 3599.9996, 3661.25)]
    assert srt(said) == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne < two --> three\n\n2\n01:00:00,000 --> 01:01:01,250\nFour & five\n\n"
    )
    assert vtt(said) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne &lt; two --&gt; three\n\n"
        "01:00:00.000 --> 01:01:01.250\nFour &amp; five\n\n"
    )
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")


def test_long_segments_are_split_between_words() -> None:
    text = " ".join(f"Sentence number {i} has a few words, and ends." for i in range(12))
    words = timed(text, 10.0, 0.4)
    found = list(cues([segment(text, 10.0, words[-1].end, words)]))
    assert " ".join(cue.text for cue in found) == text and len(found) > 6
    assert all(len(cue.text) <= MOST_CHARS and cue.end - cue.start <= MOST_SECONDS + 1e-6 for cue in found)
    assert all(cue.text.endswith("ends.") for cue in found), "at the ends of sentences where they are near"
    assert found[0].start == 10.0 and found[-1].end == words[-1].end


def test_what_cannot_be_split_stays() -> None:
    text = "long " * 40
    assert [cue.text for cue in cues([segment(text, 0, 20), segment("x" * 200, 20, 22, (Word("x" * 200, 20, 22),))])] == [
        text.strip(),
        "x" * 200,
    ]
    words = tuple(Word(sign, i, i + 1.0) for i, sign in enumerate("你好世界再见"))
    assert "".join(cue.text for cue in cues([segment("你好世界。再见", 0, 8, words)])) == "你好世界。再见"
