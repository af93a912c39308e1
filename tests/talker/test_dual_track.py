"""The talker's two tracks: what row goes into each codec step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omni.kernels.sampling import Sampling
from omni.talker.config import TalkerConfig
from omni.talker.dual_track import DualTrack, DualTrackState, TextEnd
from omni.talker.voices import Voice

CONFIG = TalkerConfig(
    vocab_size=20, embedding_size=6, hidden_size=4, text_end_id=1, text_pad_id=2,
    codec_start_id=13, codec_end_id=14, codec_pad_id=12, codec_mask_id=16,
)  # fmt: skip
WORDS = torch.arange(20.0)[:, None].expand(20, 6)
END = TextEnd(WORDS[1], WORDS[2])
SPEAKER = Voice("", 5, torch.empty(0), torch.empty(0))


def talker() -> DualTrack:
    return DualTrack(CONFIG, nn.Identity(), num_codes=10).requires_grad_(False)


def begun(t: DualTrack, code: int = 3) -> DualTrackState:
    """An answer whose first frame was picked."""
    state = t.start(SPEAKER, WORDS, Sampling(), 0)
    state.code = torch.tensor(code)
    state.frames.append((code,))
    return state


def test_each_step_takes_one_thought_then_the_end_then_padding() -> None:
    t = talker()
    state = begun(t)
    thoughts = list(torch.randn(2, 6))
    state.thoughts.extend(thoughts)
    state.text_ended = True
    for code, thought in zip((3, 4, 5, 6, 7), (*thoughts, END.end, END.pad, END.pad), strict=True):
        assert state.ready
        state.code = torch.tensor(code)
        expected = t.thinker_to_talker_proj(t.embed_tokens.weight[code] + thought)
        torch.testing.assert_close(t.step_rows([state])[0], expected[None])


def test_late_text_is_waited_for() -> None:
    state = begun(talker())
    assert not begun(talker()).ready
    state.thoughts.append(torch.zeros(6))
    assert state.ready
    state.thoughts.clear()
    state.text_ended = True
    assert state.ready


def test_an_answer_without_text_is_never_ready() -> None:
    state = talker().start(SPEAKER, WORDS, Sampling(), 0)
    state.text_ended = True
    assert not state.ready


def test_steps_of_several_answers_are_one_batch() -> None:
    t = talker()
    states = [begun(t, i) for i in range(3)]
    new = t.start(SPEAKER, WORDS, Sampling(), 0)
    for i, state in enumerate([*states, new]):
        state.thoughts.append(torch.full((6,), float(i)))
    expected = [t.thinker_to_talker_proj(t.embed_tokens.weight[i] + float(i))[None] for i in range(3)]
    rows = t.step_rows([states[0], new, *states[1:]])
    torch.testing.assert_close(torch.cat([rows[0], *rows[2:]]), torch.cat(expected))
    torch.testing.assert_close(rows[1], t.opening_rows(WORDS[5], torch.full((6,), 3.0)))


def test_codes_without_a_sound_are_not_picked_and_those_that_stop_are_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    t = talker()
    states = [begun(t) for _ in range(3)]
    hidden = torch.randn(3, 4)
    scores = torch.eye(20)[[11, 9, 14]] * 2 + torch.eye(20)[[4, 4, 4]]
    monkeypatch.setattr(t, "logits", lambda _: scores)
    assert t.pick(states, hidden) == [(4,), (9,), None]
    assert [state.frames for state in states] == [[(3,), (4,)], [(3,), (9,)], [(3,)]]
    assert states[1].code is not None and int(states[1].code) == 9


def test_what_a_speech_was_made_from_is_read_again() -> None:
    t = talker()
    state = t.start(SPEAKER, WORDS, Sampling(), 0)
    state.thoughts.extend(torch.randn(3, 6))
    state.text_ended = True
    rows = []
    for code in (3, 4, 5, 6, 7, 8):
        rows += t.step_rows([state])
        state.code = torch.tensor(code)
        state.frames.append((code,))
        torch.testing.assert_close(t.replay_rows(state), torch.cat(rows))


def test_prompt_rows_leave_the_embedding_out_at_media() -> None:
    t = talker()
    hidden, embedded = torch.randn(2, 3, 6)
    rows = t.prompt_rows(hidden, embedded, torch.tensor([False, True, False]))
    torch.testing.assert_close(rows[1], t.thinker_to_talker_proj(hidden[1]))
    torch.testing.assert_close(rows[2], t.thinker_to_talker_proj(hidden[2] + embedded[2]))


def test_opening_rows_are_the_voice_and_the_first_thought() -> None:
    t = talker()
    voice, first = torch.randn(2, 6)
    rows = t.opening_rows(voice, first)
    torch.testing.assert_close(rows[0], t.thinker_to_talker_proj(voice + t.embed_tokens.weight[12]))
    torch.testing.assert_close(rows[1], t.thinker_to_talker_proj(first + t.embed_tokens.weight[13]))
