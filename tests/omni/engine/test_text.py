"""The text track: what is let out, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omni.engine.text import TextTrack
from omni.prompt.tokenizer import StreamDecoder, Tokenizer
from tests.oracle.tiny import tiny

DECODER = StreamDecoder(Tokenizer.read(tiny("7b-like")))


def run(text: str, stop: list[str]) -> tuple[str, bool, list[int]]:
    """What is let out, whether a stop string was met, and the characters out after each byte."""
    track = TextTrack(DECODER, stop)
    state, out, counts = track.start(), "", []
    for byte in text.encode():
        out += track.step(state, byte)
        counts.append(state.num_released)
        if state.stopped:
            break
    out += track.finish(state)
    assert state.num_released == len(out)
    return out, state.stopped, counts


def test_characters_come_whole() -> None:
    assert run("é你😀", []) == ("é你😀", False, [0, 1, 1, 1, 2, 2, 2, 2, 3])


def test_the_beginning_of_a_stop_string_waits() -> None:
    assert run("abcab", ["abd"]) == ("abcab", False, [0, 0, 3, 3, 3])


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_nothing_of_the_earliest_stop_string_comes_out(text: str, stop: list[str]) -> None:
    """The text is cut where the stop string that is complete first begins; of two complete at once, the longer counts."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    out, stopped, _ = run(text, stop)
    assert stopped == bool(ends)
    assert out == (text[: min(ends)[1]] if ends else text)


@given(st.text("abc", max_size=12), st.sampled_from(["", "ab", "aab", "abc"]), st.integers(1, 3))
def test_what_is_not_for_the_ear_is_let_out_and_not_spoken(text: str, mute: str, step: int) -> None:
    track = TextTrack(DECODER, ["cc"], mute)
    state, out, spoken = track.start(), "", [0]
    for at in range(0, len(text), step):
        for byte in text[at : at + step].encode():
            out += track.step(state, byte) if not state.stopped else ""
            spoken.append(track.num_spoken(state))
    out += track.finish(state)
    assert out == text.partition("cc")[0]
    audible = text.partition(mute)[0] if mute else text
    assert max(spoken) <= track.num_spoken(state) == min(len(out), len(audible))
    assert spoken == sorted(spoken)
