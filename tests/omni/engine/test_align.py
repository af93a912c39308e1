"""When words are spoken: by attention made by hand, and in the small model's speech."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni import AudioChunk, Omni, Options, TextDelta
from omni.encoders.waves import read_audio
from omni.engine.align import heard_rows, join_words, telling_heads, token_starts
from omni.evaluation.recogniser import HISS, PEAK, RATE, SILENCE, words_of
from omni.events import Word, collect

QUESTIONS = ("Who are you?", "What can you do?", "What is two plus three?", "How are you?", "Good morning.", "Thank you.")


def scores(path: list[int], num_rows: int, sharpness: float, noise: float, seed: int) -> torch.Tensor:
    """One head's scores `[T, n]` that follow a path, -inf at rows that come later."""
    generator = torch.Generator().manual_seed(seed)
    out = noise * torch.randn(len(path), num_rows, generator=generator)
    out[torch.arange(len(path)), path] += sharpness
    return out.masked_fill(torch.ones_like(out, dtype=torch.bool).triu(1), -torch.inf)


def test_heads_that_follow_the_speech_are_found() -> None:
    """Among heads that look at one row for ever, at the newest row, or anywhere."""
    lengths = [9, 4, 12, 3, 7, 20, 6]
    path = [row for row, length in enumerate(lengths) for _ in range(length)]
    num = len(path)
    followers = [scores(path, 7, 5.0, 1.0, seed) for seed in range(2)]
    others = [
        scores([0] * num, 7, 9.0, 0.1, 3),
        scores([min(t, 6) for t in range(num)], 7, 6.0, 0.5, 4),
        *(scores(path, 7, 0.0, 1.0, seed) for seed in range(5, 12)),
    ]
    mixed = torch.stack(others + followers)
    heads = telling_heads(mixed)
    assert {len(others), len(others) + 1} <= set(heads)
    starts = token_starts(mixed[[len(others), len(others) + 1]])
    assert max(abs(a - b) for a, b in zip(starts, np.cumsum([0, *lengths[:-1]]), strict=True)) <= 1


def test_rows_that_are_not_reached_start_at_the_end() -> None:
    path = [0] * 6 + [1] * 6
    assert token_starts(scores(path, 5, 8.0, 0.2, 0)[None].repeat(4, 1, 1)) == [0, 6, 12, 12, 12]
    assert token_starts(torch.zeros(2, 0, 3)) == [0, 0, 0]


def keys_and_queries(path: list[int], num_rows: int, layers: int, telling: set[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Queries `[n, 2, D]` of which those of some layers look at the rows of their ids, and keys `[R, 1, D]`."""
    generator = torch.Generator().manual_seed(1)
    names = torch.nn.functional.normalize(torch.randn(num_rows, 64, generator=generator), dim=1)
    queries, keys = [], []
    for layer in range(layers):
        wanted = torch.zeros(max(path) + 1, 64)
        wanted.index_add_(0, torch.tensor(path), names)
        noise = torch.randn(len(wanted), 2, 64, generator=generator)
        queries.append(60 * wanted[:, None].expand(-1, 2, -1) * (layer in telling) + noise)
        keys.append(names[:, None])
    return queries, keys


def test_the_rows_that_ids_were_heard_in() -> None:
    lengths = [6, 9, 3, 12, 4]
    path = [row for row, length in enumerate(lengths) for _ in range(length)]
    found = heard_rows(*keys_and_queries(path, len(path), 4, {2}))
    ends = np.cumsum([0, *lengths]).tolist()
    assert [last for _, last in found] == pytest.approx(ends[1:], abs=1)
    assert found[0][0] == 0 and found[-1][1] == len(path)
    assert all(a[1] == b[0] for a, b in pairwise(found))


def test_more_ids_than_rows_are_not_placed() -> None:
    queries, keys = keys_and_queries([0, 1, 2], 3, 2, {1})
    assert len(heard_rows(queries, keys)) == 3
    assert heard_rows(queries, [key[:2] for key in keys]) == []


def test_tokens_join_to_words() -> None:
    assert join_words(["I", " am", " Om", "ni", ",", " here", "."], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.3]) == [
        Word("I", 0.0, 0.2),
        Word(" am", 0.2, 0.4),
        Word(" Omni,", 0.4, 1.0),
        Word(" here.", 1.0, 1.3),
    ]
    assert join_words([], [0.5]) == []


def aligned(text: str, audio: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Start and end of each word, by pocketsphinx, which is told the words."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    model = f"{pocketsphinx.get_model_path()}/en-us"
    decoder = pocketsphinx.Decoder(
        pocketsphinx.Config(hmm=f"{model}/en-us", dict=f"{model}/cmudict-en-us.dict", lm=None, loglevel="FATAL")
    )
    quiet = np.pad(read_audio((audio, 24000), RATE), SILENCE)
    wave = quiet + np.random.default_rng(0).standard_normal(len(quiet)) * HISS
    decoder.set_align_text(" ".join(words_of(text)))
    decoder.start_utt()
    decoder.process_raw((wave * (PEAK / np.abs(wave).max()) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    before = SILENCE / RATE
    spoken = [s for s in decoder.seg() or [] if not s.word.startswith(("<", "[", "("))]
    return [(s.start_frame / 100 - before, (s.end_frame + 1) / 100 - before) for s in spoken]


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(progress=False)


def test_word_times_are_a_recognisers(omni: Omni) -> None:
    """The median error is at most 150 ms; with no attention to go by, evenly spread words miss it."""
    errors, guesses = list[float](), list[float]()
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        request = omni.runtime.request(messages, "Chelsie", Options(seed=1, max_tokens=64, max_audio_seconds=20))
        reply = collect(omni.runtime.run(request), omni.sample_rate, spoken=True)
        assert reply.audio is not None
        words = omni.runtime.words(request, messages, "Chelsie")
        assert "".join(word.text for word in words) == reply.text
        truth = aligned(reply.text, reply.audio)
        assert len(words) == len(truth)
        errors += [abs(word.start - start) for word, (start, _) in zip(words, truth, strict=True)]
        evenly = np.linspace(0, len(reply.audio) / omni.sample_rate, len(words) + 1)
        guesses += [abs(guess - start) for guess, (start, _) in zip(evenly, truth, strict=False)]
    assert median(errors) <= 0.15, errors
    assert median(errors) < median(guesses) / 2


def test_an_answer_broken_off_early_is_timed_as_the_whole(omni: Omni) -> None:
    """Though its text was all written by then."""
    session = omni.session(voice="Chelsie", seed=1)
    session.append_text("Count from one to ten.")
    told = session.respond()
    text = ""
    for event in told:
        text += event.text if isinstance(event, TextDelta) else ""
        if isinstance(event, AudioChunk):
            break
    assert text == "One, two, three, four, five, six, seven, eight, nine, ten."
    assert session.interrupt(100) == ""
    assert session.interrupt(1e6) in ("One,", "One, two,")
    whole = omni.session(voice="Chelsie", seed=1)
    whole.append_text("Count from one to ten.")
    list(whole.respond())
    assert whole.interrupt(350) == "One," and whole.interrupt(1e6) == text
    assert session.interrupt(350) == "One,"
