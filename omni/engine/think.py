"""The thinking stage: prompts and words in, text and thoughts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omni.encoders.features import Picture, Sound
from omni.engine.features import FeatureCache
from omni.engine.request import Request
from omni.engine.runner import Lane
from omni.events import Limit, TokenLogprob
from omni.models.thinker import Thinker


class ThinkStage:
    """Attributes:
    lane: the thinker's decoder with its cache.
    features: rows of media that were encoded lately.
    """

    def __init__(self, thinker: Thinker, *, cache_tokens: int, graphs: bool = True) -> None:
        self.model = thinker
        self.lane = Lane(thinker.decoder, cache_tokens, graphs=graphs)
        self.features = FeatureCache()

    def begin_reading(self, request: Request, most_pages: int | None) -> None:
        """Begin with what the cache holds of the prompt already, at most so many pages."""
        pool, prompt = self.lane.pool, request.prompt
        # the last row before an answer is always read: it tells how the answer begins
        whole = (prompt.num_tokens - (not request.only_reads)) // pool.page_size
        pool.adopt(request.cache, request.page_keys[:whole], most_pages)
        request.runs = prompt.runs_after(request.cache.length)
        known = [name for name in request.wanted_media() if self.features.has(self._pieces(prompt.medium(*name)))]
        for name in known:
            (request.features[name],) = self.encode([prompt.medium(*name)])

    def encode(self, media: Sequence[Sound | Picture]) -> list[Tensor]:
        """Rows `[n, C]` of each medium; what has not been heard or seen lately goes through the towers, all at once."""
        pieces = [self._pieces(medium) for medium in media]
        rows = self.features.get([piece for of_one in pieces for piece in of_one], self._encode)
        left = iter(rows)
        return [torch.cat([next(left) for _ in of_one]) for of_one in pieces]

    def _pieces(self, medium: Sound | Picture) -> Sequence[Sound | Picture]:
        return medium.pieces(self.block_frames) if isinstance(medium, Sound) else medium.pieces

    @property
    def block_frames(self) -> int:
        """Mel frames of the blocks that the audio tower hears apart from each other."""
        audio = self.model.config.audio
        return audio.chunk_frames if audio else 1

    def _encode(self, media: Sequence[Sound | Picture]) -> list[Tensor]:
        sounds = [medium for medium in media if isinstance(medium, Sound)]
        pictures = [medium for medium in media if isinstance(medium, Picture)]
        ears, eyes = self.model.audio_tower, self.model.visual
        heard = iter(ears.encode(sounds) if ears and sounds else [])
        seen = iter(eyes.encode(pictures) if eyes and pictures else [])
        return [next(heard if isinstance(medium, Sound) else seen) for medium in media]

    def see(self, requests: Sequence[Request]) -> None:
        """Encode the next medium of each request."""
        names = [request.wanted_media()[0] for request in requests]
        media = [r.prompt.medium(*name) for r, name in zip(requests, names, strict=True)]
        for request, name, rows in zip(requests, names, self.encode(media), strict=True):
            request.features[name] = rows

    def read(self, parts: Sequence[tuple[Request, int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Read so many more rows of each request's prompt; an answer of the model's own then gets its first id.

        Returns:
            What the talker hears of each: hidden rows `[n, C]`, input rows `[n, C]`, and which are media, bool `[n]`.
        """
        rows, media, positions = [], [], []
        for request, num in parts:
            if request.rows is None or request.is_media is None:
                request.rows, request.is_media = self._embed(request)
            at = request.cache.length
            rows.append(request.rows[:num])
            media.append(request.is_media[:num])
            positions.append(request.prompt.positions[:, at : at + num])
            request.rows, request.is_media = request.rows[num:], request.is_media[num:]
        requests = [request for request, _ in parts]
        hidden = self.lane.advance([r.cache for r in requests], rows, positions)
        own = []
        for request, h in zip(requests, hidden, strict=True):
            self.lane.pool.publish(request.cache, request.page_keys)
            if request.num_unread:
                continue
            request.prefilled = request.elapsed()
            request.rows = request.is_media = None
            request.features.clear()
            request.prompt = replace(request.prompt, pictures=(), sounds=())  # what they hold has been read
            if request.given is None and not request.only_reads:
                own.append((request, h[-1:]))
        if own:
            self._pick([request for request, _ in own], torch.cat([h for _, h in own]))
        return list(zip(hidden, rows, media, strict=True))

    def _embed(self, request: Request) -> tuple[Tensor, Tensor]:
        features = [request.features[run.is_sound, run.index][run.first : run.last] for run in request.runs]
        ids = request.prompt.ids[request.cache.length :].to(self.lane.device)
        return self.model.embed(ids, features)

    def find(self, requests: Sequence[Request]) -> None:
        """Let the thinker read what each answer says next, found by itself or given, and find the next id."""
        reading: list[tuple[Request, list[int]]] = []
        for request in requests:
            new = self._given(request) if request.given is not None else [request.next_id]
            if ids := [i for i in new if i is not None]:
                reading.append((request, ids))
        hidden = self._read(reading) if reading else []
        going_on = [
            (request, h)
            for (request, _), h in zip(reading, hidden, strict=True)
            if request.given is None and not request.last_id
        ]
        for request in requests:
            if request.last_id or request.given_ended:
                self._end(request)
        if going_on:
            self._pick([request for request, _ in going_on], torch.cat([h for _, h in going_on]))

    @staticmethod
    def _given(request: Request) -> list[int]:
        """Ids that are to be spoken word for word, written as they are read."""
        new, request.given = request.given or [], []
        request.ids += new
        for token in new:
            request.write(request.track.step(request.text, token))
        return new

    def _read(self, reading: Sequence[tuple[Request, list[int]]]) -> list[Tensor]:
        """Append ids of answers; hidden rows `[n, C]` of each. Each id becomes a thought for the talker."""
        rows = [self.model.embed_tokens(torch.tensor(ids, device=self.lane.device)) for _, ids in reading]
        positions = [request.clock.text(len(ids)) for request, ids in reading]
        hidden = self.lane.advance([request.cache for request, _ in reading], rows, positions)
        for (request, _), h, e in zip(reading, hidden, rows, strict=True):
            request.think(h + e)
        return hidden

    def _pick(self, requests: Sequence[Request], hidden: Tensor) -> None:
        """Choose the next id of each answer from its last hidden row `[B, C]`."""
        logits = self.model.logits(hidden)
        ids = torch.stack([r.sampler.pick(row) for r, row in zip(requests, logits, strict=True)]).tolist()
        for request, token, row in zip(requests, ids, logits, strict=True):
            if token in self.model.config.eos_ids:
                self._end(request)
                continue
            request.ids.append(token)
            if request.options.logprobs is not None:
                request.logprobs.append(_likely(request, row, token, request.options.logprobs))
            request.next_id = token
            request.muted |= token in request.mute_ids
            request.write(request.track.step(request.text, token))
            if request.text.stopped:
                self._end(request)
            elif len(request.ids) >= request.options.max_tokens:
                self._cut(request, "text")
            elif request.cache.length + 1 >= self.lane.max_positions:
                self._cut(request, "context")

    def _cut(self, request: Request, limit: Limit) -> None:
        """End the text at its last id, which the talker still has to hear about: it is a word like any other."""
        request.limits.add(limit)
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


def _likely(request: Request, logits: Tensor, token: int, num: int) -> TokenLogprob:
    """How likely a token was by its logits `[V]`, and the `num` likeliest there."""
    bytes_of, odds = request.track.decoder.bytes_of, logits.float().log_softmax(-1)
    best = odds.topk(num)
    top = tuple((bytes_of(i), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(bytes_of(token), float(odds[token]), top)
