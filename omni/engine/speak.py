"""The speaking stage: thoughts in, frames of codes and sound out."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from omni.engine.align import attention_scores, telling_heads, token_starts
from omni.engine.block_manager import CachedSequence
from omni.engine.options import Options
from omni.engine.request import Phase, Request
from omni.engine.runner import ModelRunner
from omni.engine.scheduler import Kind, Pace
from omni.engine.speech import Speech
from omni.events import AudioChunk
from omni.models.decoder import Decoder
from omni.prompt.prompt import Prompt
from omni.talker.voice import Frame, Talker, Vocoder

OPENING_CHUNK = 1024
"""Rows of a prompt that the talker may read together with its opening; longer ones it reads before."""


class SpeakStage:
    """A talker and a vocoder; listens to the thinker.

    Args:
        words: the thinker's embedding `[V, C]`.

    Attributes:
        runner: the talker's decoder with its cache.
        heads: whose attention tells when a thought is spoken; None until a speech has told them.
    """

    kinds = frozenset({Kind.TALKER_PREFILL, Kind.TALKER_DECODE, Kind.VOCODE})

    def __init__(self, talker: Talker, vocoder: Vocoder, words: Tensor, *, cache_tokens: int, graphs: bool = True) -> None:
        assert isinstance(talker.decoder, Decoder)
        self.talker, self.vocoder, self.words = talker, vocoder, words
        self.runner = ModelRunner(talker.decoder, cache_tokens, graphs=graphs)
        self.heads: list[int] | None = None
        if graphs:
            vocoder.record()

    @property
    def num_opening_rows(self) -> int:
        return self.talker.num_opening_rows

    @property
    def pace(self) -> Pace:
        """How its sound is listened to and made."""
        vocoder = self.vocoder
        return Pace(vocoder.frames_per_second, vocoder.longest_chunk, vocoder.longest_window)

    def start(self, speaker: Any, prepared: Any, options: Options, seed: int) -> Speech:
        """The spoken side of a new answer; speaker, prepared: as talker and vocoder take them."""
        track = self.talker.start(speaker, self.words, options.voice_sampling, seed + 1)
        sound = self.vocoder.start(prepared, seed + 2, options.chunks)
        num_frames = max(1, round(options.longest_speech * self.vocoder.frames_per_second))
        return Speech(track, sound, num_frames, self.vocoder.sample_rate)

    # ---- what the loop asks

    def sequence(self, request: Request) -> CachedSequence | None:
        return request.speech.cache if request.speech else None

    def begin(self, request: Request) -> None:
        """Begin with what the cache holds already of what the talker hears of the prompt."""
        speech, prompt = request.speech, request.prompt
        if speech is None:
            return
        heard = self.talker.hears(prompt.ids)
        none = prompt.positions[:, :0]  # of the head of a prompt it may hear nothing
        speech.positions = torch.cat([none, *(prompt.positions[:, rows.start : rows.stop] for rows in heard)], 1)
        whole = list(heard) == [range(prompt.num_tokens)]  # only then are the prompt's blocks the talker's, too
        speech.block_keys = request.block_keys if whole else ()
        known = self.runner.cache.blocks.adopt(speech.cache, speech.block_keys)
        left = [range(known, prompt.num_tokens)] if whole else heard
        speech.unheard = deque(rows for rows in left if rows)

    def ready(self, request: Request) -> Mapping[Kind, int]:
        ready, speech = dict[Kind, int](), request.speech
        if speech is None:
            return ready
        if request.phase > Phase.PREFILL:
            num, opening = speech.num_unread, 0 if request.prefill_only else OPENING_CHUNK
            if num > opening:
                ready[Kind.TALKER_PREFILL] = num - opening
            elif speech.track.ready and not speech.ended:
                ready[Kind.TALKER_DECODE] = 1 if speech.track.frames else num + self.num_opening_rows
        if num := self.vocoder.due(speech.sound):
            ready[Kind.VOCODE] = num
        return ready

    def run(self, kind: Kind, parts: Sequence[tuple[Request, int]]) -> None:
        speaking = [(request, request.speech, num) for request, num in parts if request.speech]
        match kind:
            case Kind.TALKER_PREFILL:
                self.prefill([(speech, num) for _, speech, num in speaking])
            case Kind.TALKER_DECODE:
                self.decode([(request, speech) for request, speech, _ in speaking])
            case _:
                self.vocode([(request, speech) for request, speech, _ in speaking])

    def is_over(self, request: Request) -> bool:
        speech = request.speech
        if speech is None or request.prefill_only:
            return speech is None or not (speech.unheard or speech.num_unread)
        return speech.ended and not self.vocoder.due(speech.sound)

    # ---- what the thinker hands on

    def needs(self, request: Request) -> int:
        speech = request.speech
        return speech.unheard[0].start if speech and speech.unheard else request.prompt.num_tokens

    def hear(self, request: Request, first: int, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> None:
        speech, last = request.speech, first + len(hidden)
        while speech and speech.unheard and speech.unheard[0].start < last:
            rows = speech.unheard.popleft()
            if rows.stop > last:
                speech.unheard.appendleft(range(last, rows.stop))
            part = slice(rows.start - first, min(rows.stop, last) - first)
            speech.rows.append(self.talker.prompt_rows(hidden[part], embedded[part], is_media[part]))

    def think(self, request: Request, hidden: Tensor, embedded: Tensor) -> None:
        speech, text = request.speech, request.text
        if speech is None:
            return
        if not text.muted:
            made = text.num_made + bool(text.decoding.tail)  # an id that ends inside a character has its text yet to come
            for thought in self.talker.thought(hidden, embedded):
                speech.relay.put(thought, made)
        self._relay(request, speech)

    def end_text(self, request: Request) -> None:
        speech = request.speech
        if speech is None:
            return
        self._relay(request, speech)
        speech.track.text_ended = True
        if not (speech.ended or speech.track.thoughts or speech.track.frames):
            self._end(request, speech)  # an empty answer is silent

    @staticmethod
    def _relay(request: Request, speech: Speech) -> None:
        """Hand the talker the thoughts whose text has been let out and is for the ear."""
        track, text = request.track, request.text
        speech.track.thoughts.extend(speech.relay.take(track.num_spoken(text)))
        if text.muted and text.num_released >= text.num_audible:  # what is still held has begun to be a call
            speech.relay.held.clear()
            speech.track.text_ended = True

    # ---- steps

    def prefill(self, parts: Sequence[tuple[Speech, int]]) -> None:
        """Let the talker read so many more rows of each prompt."""
        rows, positions = [], []
        for speech, num in parts:
            assert speech.positions is not None
            left, at = torch.cat(speech.rows), speech.cache.length
            rows.append(left[:num])
            positions.append(speech.positions[:, at : at + num])
            speech.rows = [left[num:]]
        self.runner.advance([speech.cache for speech, _ in parts], rows, positions)
        for speech, _ in parts:
            self.runner.cache.blocks.insert(speech.cache, speech.block_keys)

    def decode(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """One frame of answers whose next thought is there."""
        rows, positions = [], []
        for (request, speech), new in zip(speaking, self.talker.step_rows([s.track for _, s in speaking]), strict=True):
            if speech.track.frames:
                positions.append(torch.full((3, 1), speech.position))
                speech.position += 1
            else:
                positions.append(self._opening_positions(request, speech))
                new, speech.rows = torch.cat((*speech.rows, new)), []
            rows.append(new)
        hidden = self.runner.advance([speech.cache for _, speech in speaking], rows, positions)
        for _, speech in speaking:
            if not speech.track.frames:
                self.runner.cache.blocks.insert(speech.cache, speech.block_keys)
        frames = self.talker.pick([s.track for _, s in speaking], torch.cat([h[-1:] for h in hidden]))
        for (request, speech), frame in zip(speaking, frames, strict=True):
            self._say(request, speech, frame)

    def _opening_positions(self, request: Request, speech: Speech) -> Tensor:
        """Of what is left of the prompt and of the opening."""
        assert speech.positions is not None
        clock = request.prompt.clock_after()
        opening = clock.text(self.num_opening_rows)
        speech.position = clock.top + 1
        return torch.cat((speech.positions[:, speech.cache.length :], opening), 1)

    def _say(self, request: Request, speech: Speech, frame: Frame | None) -> None:
        """One more frame, and whatever it ends."""
        if frame is None:
            self._end(request, speech)
            return
        self.vocoder.push(speech.sound, frame)
        if len(speech.track.frames) >= speech.max_frames:
            request.limits.add("audio")
        elif speech.cache.length >= self.runner.max_positions:
            request.limits.add("context")
        else:
            return
        self._end(request, speech)

    def _end(self, request: Request, speech: Speech) -> None:
        """No more frames will come."""
        speech.ended = True
        self.vocoder.push(speech.sound, None)

    def vocode(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """Sound for the next chunk of each answer, which must be due."""
        waves = self.vocoder.make([speech.sound for _, speech in speaking])
        for (request, speech), wave in zip(speaking, waves, strict=True):
            if not len(wave):
                continue
            if request.first_audio is None:
                request.first_audio = request.elapsed()
            # whoever has run dry hears the new sound from now on
            speech.due = max(speech.due or 0.0, time.perf_counter()) + len(wave) / speech.sample_rate
            chunk = AudioChunk(wave.cpu().numpy(), speech.sample_rate, speech.num_samples)
            request.outbox.put(request.key, chunk)
            speech.num_samples += len(wave)

    # ---- when words are said

    def token_starts(self, prompt: Prompt, cache: CachedSequence, speech: Speech) -> list[int]:
        """The frame at which each thought of a speech begins to be spoken; the first speech, a whole one, tells `heads`.

        cache: holds the prompt; the speech's rows are read behind it once more.
        """
        track, num = speech.track, len(speech.track.frames)
        if not num:
            return []
        clock, first = prompt.clock_after(), self.num_opening_rows - 1
        opening = clock.text(self.num_opening_rows)
        steps = (clock.top + 1 + torch.arange(num - 1)).expand(3, -1)
        queries, keys = defaultdict[int, list[Tensor]](list), defaultdict[int, list[Tensor]](list)
        layers = cycle(range(self.runner.decoder.config.num_layers))

        def tap(q: Tensor, k: Tensor) -> None:
            layer = next(layers)
            queries[layer].append(q)
            keys[layer].append(k)

        rows = self.talker.replay_rows(track)
        self.runner.advance([cache], [rows], [torch.cat((opening, steps), 1)], tap)
        q, k = ([torch.cat(of[layer]) for layer in sorted(of)] for of in (queries, keys))
        scores = attention_scores(q, k, first, min(num, len(track.told)))
        if self.heads is None:
            self.heads = telling_heads(scores)
        return token_starts(scores[self.heads])
