"""Positions against transformers, for every case that has one, and a case worked by hand."""

from __future__ import annotations

import pytest
import torch

from omni.encoders.audio import num_audio_tokens
from omni.families import read_config
from omni.prompt.positions import AudioSpan, AudioVideoSpan, Clock, ImageSpan, Span, TextSpan, VideoSpan
from omni.prompt.prompt import fill
from tests.oracle.tiny import reference, tiny

FOLDER = tiny("7b-like")
MEDIA = read_config(FOLDER).thinker.media
assert MEDIA
FRAMES = {107: 430, 25: 100, 131: 523, 1: 3, 260: 1040}
VS, VE = TextSpan((MEDIA.vision_start,)), TextSpan((MEDIA.vision_end,))
AS, AE = TextSpan((MEDIA.audio_start,)), TextSpan((MEDIA.audio_end,))
HEAD, TAIL = TextSpan((1, 2, 3)), TextSpan((4, 5, 6, 7))


def text(n: int) -> TextSpan:
    return TextSpan(tuple(range(n)))


def video(t: int, h: int, w: int, seconds: float = 1.0) -> VideoSpan:
    return VideoSpan((t, h, w), seconds)


CASES: dict[str, list[Span]] = {
    "text": [text(9)],
    "audio": [HEAD, AS, AudioSpan(131), AE, TAIL],
    "audios": [HEAD, AS, AudioSpan(25), AE, text(2), AS, AudioSpan(1), AE, TAIL],
    "image": [HEAD, VS, ImageSpan((1, 5, 9)), VE, TAIL],
    "images": [HEAD, VS, ImageSpan((1, 2, 9)), VE, VS, ImageSpan((1, 4, 2)), VE, TAIL],
    "image and audio": [HEAD, VS, ImageSpan((1, 2, 9)), VE, AS, AudioSpan(25), AE, TAIL],
    "video": [HEAD, VS, video(3, 3, 2), VE, TAIL],
    "wide video": [HEAD, VS, video(2, 3, 60), VE, TAIL],
    "slow video": [HEAD, VS, video(4, 3, 2, 2 / 3), VE, text(1), VS, video(2, 1, 1, 4.0), VE, TAIL],
    "sound in video": [HEAD, AudioVideoSpan(video(5, 2, 2), AudioSpan(107)), TAIL],
    "long sound in video": [HEAD, AudioVideoSpan(video(2, 2, 2), AudioSpan(260)), TAIL],
    "long video with sound": [HEAD, AudioVideoSpan(video(9, 2, 2), AudioSpan(25)), TAIL],
    "slow video with sound": [HEAD, AudioVideoSpan(video(4, 2, 3, 3.0), AudioSpan(131)), TAIL],
    "two videos with sound": [
        HEAD,
        AudioVideoSpan(video(5, 2, 2), AudioSpan(107)),
        text(3),
        AudioVideoSpan(video(2, 1, 2), AudioSpan(25)),
        TAIL,
    ],
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_place_equals_transformers(name: str) -> None:
    spans = CASES[name]
    assert MEDIA
    prompt = fill(spans, MEDIA, Clock(25, 50), ())
    images = [2 * torch.tensor(s.cells) // torch.tensor([2, 1, 1]) for s in spans if isinstance(s, ImageSpan)]
    clips = [s.video if isinstance(s, AudioVideoSpan) else s for s in spans if isinstance(s, VideoSpan | AudioVideoSpan)]
    videos = [2 * torch.tensor(s.cells) // torch.tensor([2, 1, 1]) for s in clips]
    sounds = [s.audio if isinstance(s, AudioVideoSpan) else s for s in spans if isinstance(s, AudioSpan | AudioVideoSpan)]
    assert all(num_audio_tokens(FRAMES[s.num_tokens]) == s.num_tokens for s in sounds)
    ids = prompt.ids[None]
    expected, delta = reference(FOLDER).thinker.get_rope_index(
        ids,
        torch.stack(images) if images else None,
        torch.stack(videos) if videos else None,
        torch.ones_like(ids),
        any(isinstance(s, AudioVideoSpan) for s in spans),
        torch.tensor([FRAMES[s.num_tokens] for s in sounds]) if sounds else None,
        torch.tensor([s.second_per_grid for s in clips]) if clips else None,
    )
    assert torch.equal(prompt.positions, expected[:, 0])
    assert prompt.clock.next == int(expected[0, 0, -1]) + 1
    assert prompt.clock.top == int(delta) + prompt.num_tokens - 1


def test_place_shares_positions_of_markers_around_sound_in_video() -> None:
    clock = Clock(25, 50, next=29, top=28)
    at = clock.place([AudioVideoSpan(video(5, 2, 2), AudioSpan(107))])[0].tolist()
    assert at[:2] == [29, 29]
    assert at[2:10] == [30] * 4 + [55] * 4
    assert at[10:60] == list(range(30, 80))
    assert at[60:68] == [80] * 4 + [105] * 4
    assert at[-2:] == [137, 137]
    assert clock.next == 138


def test_place_in_pieces_equals_whole() -> None:
    for spans in CASES.values():
        whole, pieces = Clock(25, 50), Clock(25, 50)
        expected = whole.place(spans)
        got = torch.cat([pieces.place([span]) for span in spans], 1)
        assert torch.equal(got, expected)
        assert pieces == whole


def test_true_times_of_grids_are_their_positions() -> None:
    times = (2.0, 2.0, 3.98, 9.5)
    clock = Clock(25, 50, next=10)
    rows = clock.place([VideoSpan((4, 1, 2), 1.0, times)])
    assert rows[0].tolist() == [60, 60, 60, 60, 110, 110, 248, 248]
    assert clock.next == 249


@pytest.mark.parametrize("num_audio", [0, 30, 300])
def test_true_times_alternate_with_the_sound(num_audio: int) -> None:
    """Each run of 2 s has the grids and the sound of these seconds, also where there are none; no token is left out."""
    clock = Clock(25, 50)
    span = AudioVideoSpan(VideoSpan((4, 1, 2), 1.0, (2.0, 2.5, 3.98, 9.5)), AudioSpan(num_audio))
    runs = clock.runs(span)
    for track, when in enumerate([[50, 50, 62, 62, 100, 100, 238, 238], list(range(num_audio))]):
        pieces = [(first, last) for which, first, last in runs if which == track]
        assert [i for first, last in pieces for i in range(first, last)] == list(range(len(when)))
        assert all(len({when[i] // 50 for i in range(*piece)}) == 1 for piece in pieces)
    starts = [
        (([50, 50, 62, 62, 100, 100, 238, 238], range(num_audio))[track][first] // 50, track) for track, first, _ in runs
    ]
    assert starts == sorted(starts)
    assert clock.place([span]).shape[1] == span.num_tokens
