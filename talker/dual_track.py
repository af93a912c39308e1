"""The talker: one row of thought and one codec id in, the next codec id out (Qwen2.5-Omni report, section 2.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omni.talker.config import TalkerConfig


@dataclass(frozen=True)
class TextEnd:
    """Rows `[embedding_size]` that follow the last row of text: once the end, then padding for as long as sound lasts."""

    end: Tensor
    pad: Tensor


@dataclass
class TalkerState:
    """One answer on its way from thought to codes.

    Attributes:
        rows: thoughts `[embedding_size]` that wait for their codec step, oldest first.
        text_ended: no more thoughts will come.
        code: the last code, int64 scalar.
        told: thoughts that have had their step, oldest first.
    """

    ending: TextEnd
    rows: deque[Tensor] = field(default_factory=deque)
    text_ended: bool = False
    end_spoken: bool = False
    code: Tensor | None = None
    told: list[Tensor] = field(default_factory=list)

    def next_row(self) -> Tensor:
        self.told.append(self.rows.popleft())
        return self.told[-1]


class Talker(nn.Module):
    """The talker around a decoder that it is handed.

    Args:
        decoder: maps rows `[N, hidden_size]` to rows `[N, hidden_size]`; its cache and positions are its caller's.
    """

    def __init__(self, config: TalkerConfig, decoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.thinker_to_talker_proj = nn.Linear(config.embedding_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.decoder = decoder
        self.codec_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def start(self, ending: TextEnd) -> TalkerState:
        return TalkerState(ending)

    def prompt_rows(self, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> Tensor:
        """Rows `[N, hidden_size]` for the thinker's prompt: hidden plus embedding, without the embedding at media."""
        return self.thinker_to_talker_proj(hidden + embedded.masked_fill(is_media[:, None], 0))

    def opening_rows(self, voice: Tensor, first: Tensor) -> Tensor:
        """The two rows `[2, hidden_size]` after the prompt: who speaks, and the first thought.

        Args:
            voice: the thinker's embedding of the voice's id, `[embedding_size]`.
            first: the first thought, `[embedding_size]`.
        """
        codes = self.embed_tokens.weight[[self.config.codec_pad_id, self.config.codec_start_id]]
        return self.thinker_to_talker_proj(torch.stack((voice, first)) + codes)

    def ready(self, state: TalkerState) -> bool:
        """Whether the next thought is there; late text is waited for, never replaced by padding."""
        return bool(state.rows) or state.text_ended

    def step_rows(self, states: Sequence[TalkerState]) -> Tensor:
        """The input rows `[B, hidden_size]` of the next codec step of several answers; each consumes one thought."""
        codes, thoughts = [], []
        for state in states:
            assert state.code is not None and self.ready(state)
            if state.rows:
                thoughts.append(state.next_row())
            else:
                thoughts.append(state.ending.pad if state.end_spoken else state.ending.end)
                state.end_spoken = True
            codes.append(state.code)
        return self.thinker_to_talker_proj(self.embed_tokens(torch.stack(codes)) + torch.stack(thoughts))

    def replay_rows(self, voice: Tensor, state: TalkerState, codes: Sequence[int]) -> Tensor:
        """The rows `[T + 1, hidden_size]` behind the prompt that a speech of T codes was made from, at least one."""
        opening = self.opening_rows(voice, state.told[0])
        if len(codes) == 1:
            return opening
        thoughts = [*state.told, state.ending.end, *[state.ending.pad] * len(codes)][1 : len(codes)]
        said = self.embed_tokens(torch.tensor(codes[:-1], device=opening.device))
        return torch.cat((opening, self.thinker_to_talker_proj(said + torch.stack(thoughts))))

    def logits(self, hidden: Tensor) -> Tensor:
        """`[N, V]` for hidden rows `[N, hidden_size]`."""
        return self.codec_head(hidden)
