"""The talker: one row of thought and one codec id in, the next codec id out (Qwen2.5-Omni report, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omni.kernels.layers import Embedding, Linear
from omni.kernels.sampling import Sampler, Sampling
from omni.talker.config import TalkerConfig
from omni.talker.voice import Frame, TalkerState
from omni.talker.voices import Voice

RELEASED = Sampling(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.05)
"""As transformers samples codec ids."""


@dataclass(frozen=True)
class TextEnd:
    """Rows `[embedding_size]` that follow the last row of text: once the end, then padding for as long as sound lasts."""

    end: Tensor
    pad: Tensor


@dataclass(kw_only=True)
class DualTrackState(TalkerState):
    """Attributes:
    speaker: the thinker's embedding of the voice's id, `[embedding_size]`.
    code: the last code, int64 scalar.
    """

    sampler: Sampler
    speaker: Tensor
    ending: TextEnd
    end_spoken: bool = False
    code: Tensor | None = None


class DualTrack(nn.Module):
    """The talker around a decoder that it is handed; the `Talker` of Qwen2.5-Omni.

    Args:
        decoder: maps rows `[N, hidden_size]` to rows `[N, hidden_size]`; its cache and positions are its caller's.
        num_codes: codes below this have a sound.
    """

    num_opening_rows = 2

    def __init__(self, config: TalkerConfig, decoder: nn.Module, num_codes: int) -> None:
        super().__init__()
        self.config, self.num_codes = config, num_codes
        self.thinker_to_talker_proj = Linear(config.embedding_size, config.hidden_size)
        self.embed_tokens = Embedding(config.vocab_size, config.embedding_size)
        self.decoder = decoder
        self.codec_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def _weight(self) -> Tensor:
        return self.thinker_to_talker_proj.weight

    def start(self, speaker: Voice, words: Tensor, sampling: Sampling | None, seed: int) -> DualTrackState:
        """A new answer; words: the thinker's embedding `[V, embedding_size]`, where voices and the text's end have rows."""
        config = self.config
        sampler = Sampler(
            sampling or RELEASED,
            config.vocab_size,
            seed=seed,
            device=self._weight.device,
            # transformers counts the ids that stand for the prompt on the codec track as spoken
            seen=(config.codec_mask_id, config.codec_pad_id, config.codec_start_id),
            suppress=(config.codec_start_id,),
            valid=self.num_codes,
            stops=config.stop_ids,
        )
        end, pad, who = words[[config.text_end_id, config.text_pad_id, speaker.bos_id]].to(self._weight)
        return DualTrackState(sampler=sampler, speaker=who, ending=TextEnd(end, pad))

    def hears(self, ids: Tensor) -> list[range]:
        """All of a prompt."""
        return [range(len(ids))]

    def prompt_rows(self, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> Tensor:
        """Rows `[N, hidden_size]` for the thinker's prompt: hidden plus embedding, without the embedding at media."""
        hidden, embedded, is_media = hidden.to(self._weight), embedded.to(self._weight), is_media.to(self._weight.device)
        return self.thinker_to_talker_proj(hidden + embedded.masked_fill(is_media[:, None], 0))

    def thought(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """Thoughts `[n, embedding_size]` of an answer's tokens."""
        return (hidden + embedded).to(self._weight)

    def step_rows(self, states: Sequence[DualTrackState]) -> list[Tensor]:
        """The input rows of the next step of several answers, `[2, hidden_size]` for the first of one, then `[1, ...]`.

        Each consumes one thought.
        """
        begun = [state for state in states if state.code is not None]
        rows = iter(self._next_rows(begun).split(1)) if begun else iter(())
        return [self._opening_rows(state) if state.code is None else next(rows) for state in states]

    def _opening_rows(self, state: DualTrackState) -> Tensor:
        return self.opening_rows(state.speaker, state.next_thought())

    def opening_rows(self, speaker: Tensor, first: Tensor) -> Tensor:
        """The two rows `[2, hidden_size]` after the prompt: who speaks, and the first thought; `[embedding_size]` each."""
        codes = self.embed_tokens.weight[[self.config.codec_pad_id, self.config.codec_start_id]]
        return self.thinker_to_talker_proj(torch.stack((speaker, first)) + codes)

    def _next_rows(self, states: Sequence[DualTrackState]) -> Tensor:
        codes = torch.stack([state.code for state in states if state.code is not None])
        thoughts = torch.stack([self._next_thought(state) for state in states])
        return self.thinker_to_talker_proj(self.embed_tokens(codes) + thoughts)

    @staticmethod
    def _next_thought(state: DualTrackState) -> Tensor:
        if state.thoughts:
            return state.next_thought()
        assert state.text_ended, "late text is waited for"
        ended, state.end_spoken = state.end_spoken, True
        return state.ending.pad if ended else state.ending.end

    def pick(self, states: Sequence[DualTrackState], hidden: Tensor) -> list[Frame | None]:
        """The next code of each answer from its last hidden row `[B, hidden_size]`; None where the speech has ended."""
        logits = self.logits(hidden)
        picked = torch.stack([state.sampler.pick(row) for state, row in zip(states, logits, strict=True)])
        numbers = picked.tolist()
        return [self._picked(*each) for each in zip(states, picked, numbers, strict=True)]

    def _picked(self, state: DualTrackState, code: Tensor, number: int) -> Frame | None:
        if number in self.config.stop_ids:
            return None
        state.code = code
        state.frames.append((number,))
        return state.frames[-1]

    def logits(self, hidden: Tensor) -> Tensor:
        """`[N, V]` for hidden rows `[N, hidden_size]`."""
        return self.codec_head(hidden)

    def replay_rows(self, state: DualTrackState) -> Tensor:
        """The rows `[T + 1, hidden_size]` behind the prompt that a speech of T codes was made from, at least one."""
        opening, num = self.opening_rows(state.speaker, state.told[0]), len(state.frames)
        if num == 1:
            return opening
        thoughts = [*state.told, state.ending.end, *[state.ending.pad] * num][1:num]
        said = self.embed_tokens(torch.tensor([code for (code,) in state.frames[:-1]], device=opening.device))
        return torch.cat((opening, self.thinker_to_talker_proj(said + torch.stack(thoughts))))
