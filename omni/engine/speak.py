"""The speaking stage: thoughts in, codec ids and sound out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from omni.engine.align import attention_scores, telling_heads, token_starts
from omni.engine.options import Options
from omni.engine.request import Request, Speech
from omni.engine.runner import Lane
from omni.events import AudioChunk
from omni.kernels.replay import replays_on
from omni.kernels.sampling import Sampler
from omni.models.decoder import Decoder
from omni.models.kv_store import CachedSequence
from omni.prompt.reader import Prompt
from omni.talker.dual_track import Talker, TextEnd
from omni.talker.vocoder import PreparedVoice, Vocoder
from omni.talker.voices import Voice

OPENING_ROWS = 2
"""What the talker reads between the prompt and the first code: who speaks, and the first thought."""
MOST_SHAPES = 12
"""Of chunks of sound, whose launches are recorded; the chunks of one speech have five, their waves as many."""


class SpeakStage:
    """Args:
        words: the thinker's embedding `[V, C]`; voices and the end of the text have rows in it.

    Attributes:
        lane: the talker's decoder with its cache.
        heads: whose attention tells when a thought is spoken; None until a speech has told them.
    """

    def __init__(self, talker: Talker, vocoder: Vocoder, words: Tensor, *, cache_tokens: int, graphs: bool = True) -> None:
        assert isinstance(talker.decoder, Decoder)
        self.model, self.vocoder, self.words = talker, vocoder, words
        self._weight = talker.thinker_to_talker_proj.weight
        self.lane = Lane(talker.decoder, cache_tokens, graphs=graphs)
        self.heads: list[int] | None = None
        vocoder.replays = replays_on(vocoder.device, MOST_SHAPES) if graphs else None

    def begin(self, voice: Voice, prepared: PreparedVoice, options: Options, seed: int) -> Speech:
        """The spoken side of a new answer."""
        config = self.model.config
        sampler = Sampler(
            options.voice_sampling,
            config.vocab_size,
            seed=seed + 1,
            device=self.lane.device,
            # transformers counts the ids that stand for the prompt on the codec track as spoken
            seen=(config.codec_mask_id, config.codec_pad_id, config.codec_start_id),
            suppress=(config.codec_start_id,),
            valid=self.vocoder.num_codes,
            stops=config.stop_ids,
        )
        end, pad, speaker = self.words[[config.text_end_id, config.text_pad_id, voice.bos_id]].to(self._weight)
        sound = self.vocoder.start(prepared, seed=seed + 2, chunks=options.chunks)
        return Speech(sampler, self.model.start(TextEnd(end, pad)), sound, speaker)

    def begin_reading(self, request: Request, speech: Speech) -> int:
        """Begin with what the cache holds of the prompt already; how many pages that is."""
        self.lane.pool.adopt(speech.cache, request.page_keys)
        return len(speech.cache.pages)

    def keep(self, speech: Speech, at: int, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> None:
        """Put aside what the talker has still to read of the prompt's rows from `at` on; arrays as `Talker.prompt_rows`."""
        known = speech.cache.length + sum(len(rows) for rows in speech.prompt_rows) - at
        if known < len(hidden):
            skip = max(0, known)
            heard, said = (x[skip:].to(self._weight) for x in (hidden, embedded))
            speech.prompt_rows.append(self.model.prompt_rows(heard, said, is_media[skip:].to(self.lane.device)))

    def read(self, parts: Sequence[tuple[Request, Speech, int]]) -> None:
        """Let the talker read so many more rows of each prompt."""
        rows, positions = [], []
        for request, speech, num in parts:
            left = torch.cat(speech.prompt_rows)
            at = speech.cache.length
            rows.append(left[:num])
            positions.append(request.prompt.positions[:, at : at + num])
            speech.prompt_rows = [left[num:]]
        self.lane.advance([s.cache for _, s, _ in parts], rows, positions)
        for request, speech, _ in parts:
            self.lane.pool.publish(speech.cache, request.page_keys)

    def num_unread(self, speech: Speech) -> int:
        """Rows of the prompt that the talker has still to read."""
        return sum(len(rows) for rows in speech.prompt_rows)

    def num_rows(self, speech: Speech) -> int:
        """Rows that the next codec step reads: the first reads what is left of the prompt, too."""
        return 1 if speech.track.code is not None else self.num_unread(speech) + OPENING_ROWS

    def ready(self, speech: Speech) -> bool:
        """Whether the next codec step has its thought."""
        track = speech.track
        return not speech.ended and (bool(track.rows) or (track.code is not None and track.text_ended))

    def step(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """One codec step of answers whose next thought is there."""
        begun = [s for _, s in speaking if s.track.code is not None]
        stepped = iter(self.model.step_rows([s.track for s in begun])) if begun else iter(())
        rows, positions = [], []
        for request, speech in speaking:
            if speech.track.code is not None:
                rows.append(next(stepped)[None])
                positions.append(torch.full((3, 1), speech.position))
                speech.position += 1
            else:
                opening, at = self._open(request, speech)
                rows.append(opening)
                positions.append(at)
        hidden = self.lane.advance([s.cache for _, s in speaking], rows, positions)
        for request, speech in speaking:
            if speech.track.code is None:
                self.lane.pool.publish(speech.cache, request.page_keys)
        self._pick(speaking, torch.cat([h[-1:] for h in hidden]))

    def _open(self, request: Request, speech: Speech) -> tuple[Tensor, Tensor]:
        """What is left of the prompt, who speaks, and the first thought; and where these rows stand."""
        clock = request.prompt.clock_after()
        positions = torch.cat((request.prompt.positions[:, speech.cache.length :], clock.text(OPENING_ROWS)), 1)
        speech.position = clock.top + 1
        opening = self.model.opening_rows(speech.voice_row, speech.track.next_row())
        rows, speech.prompt_rows = torch.cat((*speech.prompt_rows, opening)), []
        return rows, positions

    def token_starts(self, prompt: Prompt, cache: CachedSequence, speech: Speech) -> list[int]:
        """The code at which each thought of a speech begins to be spoken; the first speech, a whole one, tells `heads`.

        cache: holds the prompt; the speech's rows are read behind it once more.
        """
        track, num = speech.track, len(speech.codes)
        if not num:
            return []
        clock = prompt.clock_after()
        opening = clock.text(OPENING_ROWS)
        steps = (clock.top + 1 + torch.arange(num - 1)).expand(3, -1)
        queries, keys = defaultdict[int, list[Tensor]](list), defaultdict[int, list[Tensor]](list)
        layers = cycle(range(self.lane.decoder.config.num_layers))

        def tap(q: Tensor, k: Tensor) -> None:
            layer = next(layers)
            queries[layer].append(q)
            keys[layer].append(k)

        rows = self.model.replay_rows(speech.voice_row, track, speech.codes)
        self.lane.advance([cache], [rows], [torch.cat((opening, steps), 1)], tap)
        q, k = ([torch.cat(of[layer]) for layer in sorted(of)] for of in (queries, keys))
        scores = attention_scores(q, k, 1, min(num, len(track.told)))
        if self.heads is None:
            self.heads = telling_heads(scores)
        return token_starts(scores[self.heads])

    def _pick(self, speaking: Sequence[tuple[Request, Speech]], hidden: Tensor) -> None:
        """Choose the next codec id of each answer from its last hidden row `[B, C]`."""
        logits = self.model.logits(hidden)
        picked = torch.stack([s.sampler.pick(row) for (_, s), row in zip(speaking, logits, strict=True)])
        for (request, speech), code, number in zip(speaking, picked, picked.tolist(), strict=True):
            if number in self.model.config.stop_ids:
                self.end(speech)
                continue
            speech.track.code = code
            speech.codes.append(number)
            self.vocoder.push(speech.sound, [number])
            if len(speech.codes) >= request.options.max_codes:
                request.limits.add("audio")
            elif speech.cache.length >= self.lane.max_positions:
                request.limits.add("context")
            else:
                continue
            self.end(speech)

    def end(self, speech: Speech) -> None:
        """No more codes will come."""
        speech.ended = speech.sound.ended = True

    def voice(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """Sound for the next chunk of each answer, which must be due."""
        waves = self.vocoder.make([speech.sound for _, speech in speaking])
        for (request, speech), wave in zip(speaking, waves, strict=True):
            if not len(wave):
                continue
            if request.first_audio is None:
                request.first_audio = request.elapsed()
            # whoever has run dry hears the new sound from now on
            speech.due = max(speech.due or 0.0, time.perf_counter()) + len(wave) / self.vocoder.sample_rate
            chunk = AudioChunk(wave.cpu().numpy(), self.vocoder.sample_rate, speech.num_samples)
            request.outbox.put(request.key, chunk)
            speech.num_samples += len(wave)
