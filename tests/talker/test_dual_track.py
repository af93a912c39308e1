"""The talker's two tracks: what row goes into each codec step."""

from __future__ import annotations

import torch
from torch import nn

from omni.talker.config import TalkerConfig
from omni.talker.dual_track import Talker, TextEnd

CONFIG = TalkerConfig(
    vocab_size=20, embedding_size=6, hidden_size=4, text_end_id=1, text_pad_id=2,
    codec_start_id=13, codec_end_id=14, codec_pad_id=12, codec_mask_id=16,
)  # fmt: skip
END = TextEnd(torch.full((6,), 100.0), torch.full((6,), 200.0))


def talker() -> Talker:
    return Talker(CONFIG, nn.Identity()).requires_grad_(False)


def test_each_step_takes_one_thought_then_the_end_then_padding() -> None:
    t = talker()
    state = t.start(END)
    thoughts = list(torch.randn(2, 6))
    state.rows.extend(thoughts)
    state.text_ended = True
    for code, thought in zip((3, 4, 5, 6, 7), (*thoughts, END.end, END.pad, END.pad), strict=True):
        assert t.ready(state)
        state.code = torch.tensor(code)
        expected = t.thinker_to_talker_proj(t.embed_tokens.weight[code] + thought)
        torch.testing.assert_close(t.step_rows([state])[0], expected)


def test_late_text_is_waited_for() -> None:
    t = talker()
    state = t.start(END)
    assert not t.ready(state)
    state.rows.append(torch.zeros(6))
    assert t.ready(state)
    state.rows.clear()
    state.text_ended = True
    assert t.ready(state)


def test_steps_of_several_answers_are_one_batch() -> None:
    t = talker()
    states = [t.start(END) for _ in range(3)]
    for i, state in enumerate(states):
        state.code = torch.tensor(i)
        state.rows.append(torch.full((6,), float(i)))
    expected = [t.thinker_to_talker_proj(t.embed_tokens.weight[i] + float(i)) for i in range(3)]
    torch.testing.assert_close(t.step_rows(states), torch.stack(expected))


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
