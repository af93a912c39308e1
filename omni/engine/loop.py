"""The loop: think, talk and voice in turn, until an answer ends (dual track, Qwen2.5-Omni report, section 2.3)."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from omni.cache import PAGE_SIZE, PagePool
from omni.decoder import Decoder
from omni.engine.batch import Lane
from omni.engine.request import CODES_PER_SECOND, Request, Speech
from omni.errors import ContextError
from omni.events import AudioChunk, Done, Event, Limit, TextDelta, Timings, Usage
from omni.model import Qwen2_5Omni
from omni.prompt import Prompt
from omni.talker.dual_track import Talker
from omni.talker.vocoder import Vocoder

OPENING_ROWS = 2
"""What the talker reads between the prompt and the first code: who speaks, and the first thought."""


class Engine:
    """Runs requests on the model's device, one step at a time.

    Args:
        model: with its weights.
        cache_tokens: rows that the thinker's cache may hold in all, and the talker's.

    Attributes:
        thinker, talker: the two decoders with their caches.
    """

    def __init__(self, model: Qwen2_5Omni, *, cache_tokens: int) -> None:
        self.model = model
        self._lock = threading.Lock()
        self.thinker = _lane(model.thinker.decoder, cache_tokens)
        self.talker = _lane(model.talker.decoder, cache_tokens) if model.talker else None

    def check(self, prompt: Prompt) -> None:
        """Raise ContextError where a prompt leaves no room for an answer."""
        longest = min(lane.decoder.config.max_positions for lane in (self.thinker, self.talker) if lane)
        if prompt.num_tokens + OPENING_ROWS > longest:
            raise ContextError(
                f"the prompt has {prompt.num_tokens} tokens and the model's context {longest}; shorten it, send fewer or "
                "smaller pictures, or sample fewer video frames"
            )

    def run(self, requests: Sequence[Request]) -> Generator[tuple[int, Event], None, None]:
        """Events of several requests as they are made, each with its request's index; closing the iterator cancels all."""
        try:
            for request in requests:
                with self._lock:
                    self._prefill(request)
            while live := [r for r in requests if not r.done]:
                with self._lock:
                    self._round(live)
                for i, request in enumerate(requests):
                    while request.events:
                        yield i, request.events.popleft()
        finally:
            for request in requests:
                self._release(request)

    def _release(self, request: Request) -> None:
        self.thinker.pool.release(request.cache)
        if request.speech and self.talker:
            self.talker.pool.release(request.speech.cache)

    @torch.inference_mode()
    def _prefill(self, request: Request) -> None:
        """Read the prompt; an answer of the model's own gets its first id."""
        prompt, thinker = request.prompt, self.model.thinker
        features = self.encode(prompt)
        rows, is_media = thinker.embed(prompt.ids.to(thinker.embed_tokens.weight.device), features)
        hidden = self.thinker.advance([request.cache], [rows], [prompt.positions])[0]
        if request.speech and self.model.talker:
            request.speech.prompt_rows = self.model.talker.prompt_rows(hidden, rows, is_media)
        request.prefilled = request.elapsed()
        if request.given is None:
            self._pick_ids([request], hidden[-1:])

    def encode(self, prompt: Prompt) -> list[Tensor]:
        """Rows of the prompt's media, in the order their placeholders stand in."""
        sounds = self.model.thinker.audio_tower.encode(prompt.sounds) if prompt.sounds else []
        pictures = self.model.thinker.visual.encode(prompt.pictures) if prompt.pictures else []
        return [(sounds if run.is_sound else pictures)[run.index][run.first : run.last] for run in prompt.runs]

    @torch.inference_mode()
    def _round(self, requests: Sequence[Request]) -> None:
        """One id of text and one codec id for every request that is ready for them, and the sound that is due."""
        self._think([r for r in requests if not r.text_ended and r.given is None])
        for request in requests:
            self._read_given(request)
        speaking = [(r, r.speech) for r in requests if r.speech]
        self._open([pair for pair in speaking if pair[1].track.code is None and not pair[1].ended])
        self._talk([pair for pair in speaking if pair[1].track.code is not None and not pair[1].ended])
        for request, speech in speaking:
            self._voice(request, speech)
        for request in requests:
            if request.text_ended and (request.speech is None or request.speech.ended):
                self._finish(request)

    # text

    def _think(self, requests: Sequence[Request]) -> None:
        """Let the thinker read each request's last id and find the next."""
        if not requests:
            return
        hidden = self._read(requests, [[r.next_id] for r in requests if r.next_id is not None])
        going_on = [i for i, r in enumerate(requests) if not r.last_id]
        for request in requests:
            if request.last_id:
                self._end_text(request)
        if going_on:
            self._pick_ids([requests[i] for i in going_on], torch.cat([hidden[i] for i in going_on]))

    def _read(self, requests: Sequence[Request], ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Append ids of the answer; hidden rows `[n, C]`. Each becomes a thought for the talker."""
        thinker = self.model.thinker
        device = thinker.embed_tokens.weight.device
        rows = [thinker.embed_tokens(torch.tensor(new, device=device)) for new in ids]
        positions = [r.clock.text(len(new)) for r, new in zip(requests, ids, strict=True)]
        hidden = self.thinker.advance([r.cache for r in requests], rows, positions)
        for request, h, e in zip(requests, hidden, rows, strict=True):
            if request.speech:
                for thought in h + e:
                    request.speech.relay.put(thought, request.text.num_made)
                self._relay(request, request.speech)
        return hidden

    def _pick_ids(self, requests: Sequence[Request], hidden: Tensor) -> None:
        """Choose the next id of each answer from its last hidden row `[B, C]`."""
        logits = self.model.thinker.logits(hidden)
        ids = torch.stack([r.sampler.pick(row) for r, row in zip(requests, logits, strict=True)]).tolist()
        for request, token in zip(requests, ids, strict=True):
            if token in request.eos_ids:
                self._end_text(request)
                continue
            request.ids.append(token)
            request.next_id = token
            self._emit_text(request, request.track.step(request.text, token))
            if request.text.stopped:
                self._end_text(request)
            elif len(request.ids) == request.options.max_tokens:
                self._cut_text(request, "text")
            elif request.cache.length + 1 >= self.thinker.decoder.config.max_positions:
                self._cut_text(request, "context")

    def _cut_text(self, request: Request, limit: Limit) -> None:
        """End the text at its last id, which the talker still has to hear about: it is a word like any other."""
        request.cut(limit)
        request.last_id = True
        if not request.speech:
            self._end_text(request)

    def _read_given(self, request: Request) -> None:
        """Let the thinker read the next piece of text that is to be spoken word for word."""
        if request.given is None or request.text_ended:
            return
        speech = request.speech
        assert speech, "words are given to be spoken"
        if speech.track.rows and not speech.ended:
            return  # the talker has enough to go on with
        piece = None if speech.ended else next(request.given, None)
        if piece is None:
            self._end_text(request)
        elif piece:
            room = self.thinker.decoder.config.max_positions - request.cache.length
            if len(piece) > room:
                raise ContextError(
                    f"the text is longer than the {room} tokens the model's context has left; say it in several calls"
                )
            request.ids += piece
            for token in piece:
                self._emit_text(request, request.track.step(request.text, token))
            self._read([request], [piece])

    def _end_text(self, request: Request) -> None:
        self._emit_text(request, request.track.finish(request.text))
        request.text_ended = True
        if request.speech:
            self._relay(request, request.speech)
            request.speech.track.text_ended = True

    def _emit_text(self, request: Request, text: str) -> None:
        if text:
            if request.first_text is None:
                request.first_text = request.elapsed()
            request.events.append(TextDelta(text))

    @staticmethod
    def _relay(request: Request, speech: Speech) -> None:
        speech.track.rows.extend(speech.relay.take(request.text.num_released))

    # speech

    @property
    def _voice_parts(self) -> tuple[Talker, Lane, Vocoder]:
        assert self.model.talker and self.talker and self.model.token2wav, "speech needs a model that speaks"
        return self.model.talker, self.talker, self.model.token2wav

    def _open(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """Let the talker read the prompt and the first thought, as soon as there is one."""
        talker, lane, _ = self._voice_parts if speaking else (None, None, None)
        for request, speech in speaking:
            assert talker and lane
            if not speech.track.rows:
                speech.ended = speech.track.text_ended  # an empty answer is silent
                continue
            assert speech.prompt_rows is not None
            clock = request.prompt.clock_after()
            positions = torch.cat((request.prompt.positions, clock.text(OPENING_ROWS)), 1)
            speech.position = clock.top + 1
            opening = talker.opening_rows(speech.voice_row, speech.track.rows.popleft())
            rows = torch.cat((speech.prompt_rows, opening))
            speech.prompt_rows = None
            hidden = lane.advance([speech.cache], [rows], [positions])[0]
            self._pick_codes([(request, speech)], hidden[-1:])

    def _talk(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """One codec step of every answer whose next thought is there."""
        if not speaking:
            return
        talker, lane, _ = self._voice_parts
        ready = [(r, s) for r, s in speaking if talker.ready(s.track)]
        if not ready:
            return
        rows = talker.step_rows([s.track for _, s in ready])
        positions = []
        for _, speech in ready:
            positions.append(torch.full((3, 1), speech.position))
            speech.position += 1
        hidden = lane.advance([s.cache for _, s in ready], list(rows[:, None]), positions)
        self._pick_codes(ready, torch.cat(hidden))

    def _pick_codes(self, speaking: Sequence[tuple[Request, Speech]], hidden: Tensor) -> None:
        """Choose the next codec id of each answer from its last hidden row `[B, C]`."""
        talker, lane, _ = self._voice_parts
        logits = talker.logits(hidden)
        picked = torch.stack([s.sampler.pick(row) for (_, s), row in zip(speaking, logits, strict=True)])
        for (request, speech), code, number in zip(speaking, picked, picked.tolist(), strict=True):
            if number in talker.config.stop_ids:
                speech.ended = True
                continue
            speech.track.code = code
            speech.codes.append(number)
            speech.new_codes.append(number)
            if len(speech.codes) == request.options.max_codes:
                request.cut("audio")
            elif speech.cache.length == lane.decoder.config.max_positions:
                request.cut("context")
            else:
                continue
            speech.ended = True

    def _voice(self, request: Request, speech: Speech) -> None:
        """Sound for the new codes, as far as their chunk is complete."""
        _, _, vocoder = self._voice_parts
        if speech.new_codes:
            codes, speech.new_codes = speech.new_codes, []
            self._emit_sound(request, speech, vocoder.step(speech.sound, codes))
        if speech.ended and not speech.finished:
            speech.finished = True
            self._emit_sound(request, speech, vocoder.finish(speech.sound))

    def _emit_sound(self, request: Request, speech: Speech, wave: Tensor) -> None:
        if len(wave):
            if request.first_audio is None:
                request.first_audio = request.elapsed()
            request.events.append(AudioChunk(wave.cpu().numpy(), speech.sample_rate, speech.num_samples))
            speech.num_samples += len(wave)

    def _finish(self, request: Request) -> None:
        prompt, speech = request.prompt, request.speech
        request.done = True
        usage = Usage(
            prompt_tokens=prompt.num_tokens,
            image_tokens=prompt.image_tokens,
            video_tokens=prompt.video_tokens,
            audio_tokens=prompt.audio_tokens,
            text_tokens=len(request.ids),
            codec_tokens=len(speech.codes) if speech else 0,
        )
        timings = Timings(
            media=request.media_read,
            prefill=request.prefilled or 0.0,
            first_text=request.first_text,
            first_audio=request.first_audio,
            total=request.elapsed(),
            audio=len(speech.codes) / CODES_PER_SECOND if speech else 0.0,
        )
        reason: Literal["stop", "length"] = "length" if request.limit else "stop"
        codes = tuple(speech.codes) if speech else ()
        request.events.append(Done(reason, request.limit, request.seed, usage, timings, tuple(request.ids), codes))
        self._release(request)


def _lane(decoder: nn.Module, cache_tokens: int) -> Lane:
    assert isinstance(decoder, Decoder)
    weight = decoder.norm.weight
    pages = -(-cache_tokens // PAGE_SIZE)
    return Lane(decoder, PagePool(decoder.config, max_pages=pages, dtype=weight.dtype, device=weight.device))
