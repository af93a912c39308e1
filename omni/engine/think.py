"""The thinking stage: prompts and words in, text and thoughts out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle

import torch
from torch import Tensor

from omni.encoders.features import Medium
from omni.encoders.tower import Senses
from omni.engine.block_manager import CachedSequence
from omni.engine.features import FeatureCache
from omni.engine.request import Phase, Request
from omni.engine.runner import ModelRunner
from omni.engine.scheduler import Kind
from omni.engine.stage import Listener
from omni.errors import CheckpointError
from omni.events import Limit, TokenLogprob
from omni.models.thinker import Thinker


class ThinkStage:
    """Args:
        listeners: are handed the thinker's rows.

    Attributes:
        runner: the thinker's decoder with its cache.
        features: rows of media that were encoded lately.
        senses: the thinker's towers.
    """

    kinds = frozenset({Kind.ENCODE, Kind.PREFILL, Kind.DECODE})
    num_opening_rows = 1

    def __init__(
        self, thinker: Thinker, listeners: Sequence[Listener] = (), *, cache_tokens: int, graphs: bool = True
    ) -> None:
        self.model, self.listeners = thinker, listeners
        self.runner = ModelRunner(thinker.decoder, cache_tokens, graphs=graphs)
        self.features = FeatureCache()
        self.senses = Senses(thinker.audio_tower, thinker.visual)
        self._proven = False

    # ---- what the loop asks

    def sequence(self, request: Request) -> CachedSequence:
        return request.cache

    def begin(self, request: Request) -> None:
        """Begin with what the cache holds of the prompt already, as far as nobody else has to be handed it."""
        blocks, prompt = self.runner.cache.blocks, request.prompt
        # the last row before an answer is always read: it tells how the answer begins
        rows = [prompt.num_tokens - (not request.prefill_only), *(each.needs(request) for each in self.listeners)]
        blocks.adopt(request.cache, request.block_keys[: min(rows) // blocks.block_size])
        request.runs = prompt.runs_after(request.cache.length)
        known = [i for i in request.wanted_media() if self.features.has(self.senses.pieces(prompt.media[i]), prompt.salt)]
        for i in known:
            (request.features[i],) = self.encode([prompt.media[i]], [prompt.salt])
        if not request.num_unread:
            request.phase = Phase.DRAIN

    def ready(self, request: Request) -> Mapping[Kind, int]:
        match request.phase:
            case Phase.PREFILL:
                if wanted := request.wanted_media():
                    return {Kind.ENCODE: request.prompt.rows_of(wanted[0])}
                return {Kind.PREFILL: request.num_unread}
            case Phase.DECODE | Phase.LAST:
                return {Kind.DECODE: max(1, len(request.script or ()))}
        return {}

    def run(self, kind: Kind, parts: Sequence[tuple[Request, int]]) -> None:
        requests = [request for request, _ in parts]
        match kind:
            case Kind.ENCODE:
                self.encode_next(requests)
            case Kind.PREFILL:
                self.prefill(parts)
            case _:
                self.decode(requests)

    def is_over(self, request: Request) -> bool:
        return request.text_ended

    # ---- media

    def encode(self, media: Sequence[Medium], salts: Sequence[bytes] = ()) -> list[Tensor]:
        """Rows `[n, C]` of each medium; what has not been heard or seen lately goes through the towers, all at once.

        salts: of whoever shows each medium; none where nobody is told apart.
        """
        pieces = [self.senses.pieces(medium) for medium in media]
        whose = [salt for salt, of_one in zip(salts, pieces, strict=False) for _ in of_one]
        rows = iter(self.features.get([piece for of_one in pieces for piece in of_one], self.senses.encode, whose))
        return [torch.cat([next(rows) for _ in of_one]) for of_one in pieces]

    def encode_next(self, requests: Sequence[Request]) -> None:
        """Encode the next medium of each request."""
        first = [request.wanted_media()[0] for request in requests]
        media = [request.prompt.media[i] for request, i in zip(requests, first, strict=True)]
        salts = [request.prompt.salt for request in requests]
        for request, i, rows in zip(requests, first, self.encode(media, salts), strict=True):
            request.features[i] = rows

    # ---- the prompt

    def prefill(self, parts: Sequence[tuple[Request, int]]) -> None:
        """Read so many more rows of each request's prompt; an answer of the model's own then gets its first id."""
        requests, firsts = [request for request, _ in parts], [request.cache.length for request, _ in parts]
        rows, media, positions = zip(*(self._next_rows(*part) for part in parts), strict=True)
        hidden = self.runner.advance([r.cache for r in requests], rows, positions)
        for request, first, *heard in zip(requests, firsts, hidden, rows, media, strict=True):
            self.runner.cache.blocks.insert(request.cache, request.block_keys)
            for listener in self.listeners:
                listener.hear(request, first, *heard)
        read = [(request, h[-1:]) for request, h in zip(requests, hidden, strict=True) if not request.num_unread]
        for request, _ in read:
            self._has_read(request)
        self._pick([(r, h) for r, h in read if r.script is None and not r.prefill_only])

    def _next_rows(self, request: Request, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """The next rows of a prompt `[num, C]`, which are media, and their positions."""
        if request.rows is None or request.is_media is None:
            request.rows, request.is_media = self._embed(request)
        at, rows, is_media = request.cache.length, request.rows, request.is_media
        request.rows, request.is_media = rows[num:], is_media[num:]
        return rows[:num], is_media[:num], request.prompt.positions[:, at : at + num]

    def _embed(self, request: Request) -> tuple[Tensor, Tensor]:
        features = [request.features[run.index][run.first : run.last] for run in request.runs]
        ids = request.prompt.ids[request.cache.length :].to(self.runner.device)
        return self.model.embed(ids, features)

    @staticmethod
    def _has_read(request: Request) -> None:
        """All of a prompt has been read; what its media hold is not needed any more."""
        request.phase = Phase.DRAIN if request.prefill_only else Phase.DECODE
        request.prefilled = request.elapsed()
        request.rows = request.is_media = None
        request.features.clear()
        request.prompt = replace(request.prompt, media=())

    # ---- the answer

    def decode(self, requests: Sequence[Request]) -> None:
        """Let the thinker read what each answer says next, found by itself or given, and find the next id."""
        reading = [(request, ids) for request in requests if (ids := self._next_ids(request))]
        hidden = self._read(reading) if reading else []
        going_on = [
            (request, h)
            for (request, _), h in zip(reading, hidden, strict=True)
            if request.script is None and request.phase is Phase.DECODE
        ]
        for request in requests:
            if request.phase is Phase.LAST or request.script is not None:
                self._end(request)
        self._pick(going_on)

    def _next_ids(self, request: Request) -> list[int]:
        if request.script is not None:
            return self._given(request, request.script)
        return [] if request.next_id is None else [request.next_id]

    @staticmethod
    def _given(request: Request, script: list[int]) -> list[int]:
        """Ids that are to be spoken word for word, written as they are read."""
        request.ids += script
        for token in script:
            request.write(request.track.step(request.text, token))
        return script

    def _read(self, reading: Sequence[tuple[Request, list[int]]]) -> list[Tensor]:
        """Append ids of answers; hidden rows `[n, C]` of each. Each id becomes a thought for the talker."""
        rows = [self.model.embed_tokens(torch.tensor(ids, device=self.runner.device)) for _, ids in reading]
        positions = [request.clock.text(len(ids)) for request, ids in reading]
        hidden = self.runner.advance([request.cache for request, _ in reading], rows, positions)
        for (request, _), h, e in zip(reading, hidden, rows, strict=True):
            for listener in self.listeners:
                listener.think(request, h, e)
        return hidden

    def _pick(self, answers: Sequence[tuple[Request, Tensor]]) -> None:
        """Choose the next id of each answer from its last hidden row `[1, C]`."""
        if not answers:
            return
        logits = self.model.logits(torch.cat([hidden for _, hidden in answers]))
        if not self._proven:
            self._prove(logits)
        ids = torch.stack([_next_id(r, row) for (r, _), row in zip(answers, logits, strict=True)]).tolist()
        for (request, _), token, row in zip(answers, ids, logits, strict=True):
            if token in self.model.config.eos_ids:
                self._end(request)
            else:
                self._say(request, token, row)

    def _prove(self, logits: Tensor) -> None:
        """Look once at what the weights come to: of numbers that are none, every answer would be exclamation marks."""
        if not logits.isfinite().all():
            raise CheckpointError(
                "the model's first logits are no finite numbers: its weights are damaged, or too large for their dtype; "
                "fetch them again, or load with dtype='float32'"
            )
        self._proven = True

    def _say(self, request: Request, token: int, logits: Tensor) -> None:
        """One more id, picked by its logits `[V]`, and whatever it ends."""
        request.ids.append(token)
        request.next_id = token
        if request.options.logprobs is not None:
            request.logprobs.append(_likely(request, logits, token, request.options.logprobs))
        request.write(request.track.step(request.text, token))
        if request.text.stopped:
            self._end(request)
        elif len(request.ids) >= request.options.max_tokens:
            self._cut(request, "text")
        elif request.cache.length + 1 >= self.runner.max_positions:
            self._cut(request, "context")

    def _cut(self, request: Request, limit: Limit) -> None:
        """End the text at its last id, which the talker still has to hear about: it is a word like any other."""
        request.limits.add(limit)
        request.phase = Phase.LAST
        if not request.speech:
            self._end(request)

    # ---- when words were heard

    def looks(self, request: Request) -> tuple[list[Tensor], list[Tensor]]:
        """What the rows that found an answer's ids looked for, and what its prompt's media offered them.

        Queries `[n, H, D]` and keys `[R, K, D]` of each layer, turned. The answer is over: its rows are read once more.
        """
        prompt, cache = request.prompt, request.cache
        last = prompt.num_tokens - 1
        ids = torch.cat((prompt.ids[last:], torch.tensor(request.ids[:-1], dtype=torch.int64)))
        positions = torch.cat((prompt.positions[:, last:], prompt.clock_after().text(len(ids) - 1)), 1)
        queries = defaultdict[int, list[Tensor]](list)
        layers = cycle(range(self.runner.decoder.config.num_layers))
        self.runner.cache.blocks.cut(cache, last)
        rows = self.model.embed_tokens(ids.to(self.runner.device))
        self.runner.advance([cache], [rows], [positions], lambda q, _: queries[next(layers)].append(q))
        media = prompt.is_media.nonzero()[:, 0].to(self.runner.device)
        keys = self.runner.cache.store.keys[:, cache.blocks].flatten(1, 2)[:, media]  # [L, R, K, D]
        return [torch.cat(queries[layer]) for layer in sorted(queries)], list(keys)

    def _end(self, request: Request) -> None:
        request.write(request.track.finish(request.text))
        request.phase = Phase.DRAIN
        for listener in self.listeners:
            listener.end_text(request)


def _next_id(request: Request, logits: Tensor) -> Tensor:
    """What an answer goes on with, int64 scalar, by its logits `[V]`, unless that is given."""
    if not request.opening:
        return request.sampler.pick(logits)
    token = torch.tensor(request.opening.pop(0), device=logits.device)
    request.sampler.saw(token)
    return token


def _likely(request: Request, logits: Tensor, token: int, num: int) -> TokenLogprob:
    """How likely a token was by its logits `[V]`, and the `num` likeliest there."""
    bytes_of, odds = request.track.decoder.bytes_of, logits.float().log_softmax(-1)
    best = odds.topk(num)
    top = tuple((bytes_of(i), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(bytes_of(token), float(odds[token]), top)
