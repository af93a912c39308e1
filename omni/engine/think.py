"""The thinking stage: prompts and words in, text and thoughts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omni.engine.batch import Lane
from omni.engine.request import Request
from omni.errors import ContextError
from omni.events import Limit
from omni.prompt import Prompt
from omni.thinker import Thinker


class ThinkStage:
    """Attributes:
    lane: the thinker's decoder with its cache.
    """

    def __init__(self, thinker: Thinker, *, cache_tokens: int) -> None:
        self.model = thinker
        self.lane = Lane(thinker.decoder, cache_tokens)

    def encode(self, prompt: Prompt) -> list[Tensor]:
        """Rows of the prompt's media, in the order their placeholders stand in."""
        sounds = self.model.audio_tower.encode(prompt.sounds) if prompt.sounds else []
        pictures = self.model.visual.encode(prompt.pictures) if prompt.pictures else []
        return [(sounds if run.is_sound else pictures)[run.index][run.first : run.last] for run in prompt.runs]

    def prefill(self, request: Request) -> tuple[Tensor, Tensor, Tensor]:
        """Read the prompt; an answer of the model's own gets its first id.

        Returns:
            What the talker hears of it: hidden rows `[P, C]`, input rows `[P, C]`, and which are media, bool `[P]`.
        """
        prompt = request.prompt
        features = self.encode(prompt)
        request.prompt = replace(prompt, pictures=(), sounds=())  # rows stand for them from here on
        rows, is_media = self.model.embed(prompt.ids.to(self.lane.device), features)
        hidden = self.lane.advance([request.cache], [rows], [prompt.positions])[0]
        request.prefilled = request.elapsed()
        if request.given is None:
            self._pick([request], hidden[-1:])
        return hidden, rows, is_media

    def find(self, requests: Sequence[Request]) -> None:
        """Let the thinker read each answer's last id and find the next."""
        if not requests:
            return
        hidden = self._read(requests, [[r.next_id] for r in requests if r.next_id is not None])
        going_on = [i for i, r in enumerate(requests) if not r.last_id]
        for request in requests:
            if request.last_id:
                self._end(request)
        if going_on:
            self._pick([requests[i] for i in going_on], torch.cat([hidden[i] for i in going_on]))

    def follow(self, request: Request) -> None:
        """Let the thinker read the next piece of text that is to be spoken word for word, if it has come."""
        piece, request.piece = request.piece, None
        if piece:
            room = self.lane.max_positions - request.cache.length
            if len(piece) > room:
                raise ContextError(
                    f"the text is longer than the {room} tokens the model's context has left; say it in several calls"
                )
            request.ids += piece
            for token in piece:
                request.write(request.track.step(request.text, token))
            self._read([request], [piece])
        if request.given_ended:
            self._end(request)

    def _read(self, requests: Sequence[Request], ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Append ids of the answer; hidden rows `[n, C]`. Each becomes a thought for the talker."""
        rows = [self.model.embed_tokens(torch.tensor(new, device=self.lane.device)) for new in ids]
        positions = [r.clock.text(len(new)) for r, new in zip(requests, ids, strict=True)]
        hidden = self.lane.advance([r.cache for r in requests], rows, positions)
        for request, h, e in zip(requests, hidden, rows, strict=True):
            request.think(h + e)
        return hidden

    def _pick(self, requests: Sequence[Request], hidden: Tensor) -> None:
        """Choose the next id of each answer from its last hidden row `[B, C]`."""
        logits = self.model.logits(hidden)
        ids = torch.stack([r.sampler.pick(row) for r, row in zip(requests, logits, strict=True)]).tolist()
        for request, token in zip(requests, ids, strict=True):
            if token in self.model.config.eos_ids:
                self._end(request)
                continue
            request.ids.append(token)
            request.next_id = token
            request.write(request.track.step(request.text, token))
            if request.text.stopped:
                self._end(request)
            elif len(request.ids) >= request.options.max_tokens:
                self._cut(request, "text")
            elif request.cache.length + 1 >= self.lane.max_positions:
                self._cut(request, "context")

    def _cut(self, request: Request, limit: Limit) -> None:
        """End the text at its last id, which the talker still has to hear about: it is a word like any other."""
        request.cut(limit)
        request.last_id = True
        if not request.speech:
            self._end(request)

    @staticmethod
    def _end(request: Request) -> None:
        request.write(request.track.finish(request.text))
        request.text_ended = True
        request.relay()
        if request.speech:
            request.speech.track.text_ended = True
