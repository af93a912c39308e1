"""The speaking stage: thoughts in, codec ids and sound out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.decoder import Decoder
from omni.engine.batch import Lane
from omni.engine.options import Options
from omni.engine.request import Request, Speech
from omni.events import AudioChunk
from omni.sampler import Sampler
from omni.talker.dual_track import Talker, TextEnd
from omni.talker.vocoder import PreparedVoice, Vocoder
from omni.talker.voices import Voice

OPENING_ROWS = 2
"""What the talker reads between the prompt and the first code: who speaks, and the first thought."""


class SpeakStage:
    """Args:
        words: the thinker's embedding `[V, C]`; voices and the end of the text have rows in it.

    Attributes:
        lane: the talker's decoder with its cache.
    """

    def __init__(self, talker: Talker, vocoder: Vocoder, words: Tensor, *, cache_tokens: int) -> None:
        assert isinstance(talker.decoder, Decoder)
        self.model, self.vocoder, self.words = talker, vocoder, words
        self.lane = Lane(talker.decoder, cache_tokens)

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
        ending = TextEnd(self.words[config.text_end_id], self.words[config.text_pad_id])
        sound = self.vocoder.start(prepared, seed=seed + 2, chunks=options.chunks)
        return Speech(sampler, self.model.start(ending), sound, self.words[voice.bos_id])

    def hear(self, speech: Speech, hidden: Tensor, embedded: Tensor, is_media: Tensor) -> None:
        """Keep what the talker will read of the prompt; arguments as `Talker.prompt_rows`."""
        speech.prompt_rows = self.model.prompt_rows(hidden, embedded, is_media)

    def open(self, request: Request, speech: Speech) -> None:
        """Let the talker read the prompt and the first thought, as soon as there is one."""
        if not speech.track.rows:
            speech.ended = speech.track.text_ended  # an empty answer is silent
            return
        assert speech.prompt_rows is not None
        clock = request.prompt.clock_after()
        positions = torch.cat((request.prompt.positions, clock.text(OPENING_ROWS)), 1)
        speech.position = clock.top + 1
        opening = self.model.opening_rows(speech.voice_row, speech.track.rows.popleft())
        rows = torch.cat((speech.prompt_rows, opening))
        speech.prompt_rows = None
        hidden = self.lane.advance([speech.cache], [rows], [positions])[0]
        self._pick([(request, speech)], hidden[-1:])

    def step(self, speaking: Sequence[tuple[Request, Speech]]) -> None:
        """One codec step of answers whose next thought is there."""
        if not speaking:
            return
        rows = self.model.step_rows([s.track for _, s in speaking])
        positions = []
        for _, speech in speaking:
            positions.append(torch.full((3, 1), speech.position))
            speech.position += 1
        hidden = self.lane.advance([s.cache for _, s in speaking], list(rows[:, None]), positions)
        self._pick(speaking, torch.cat(hidden))

    def _pick(self, speaking: Sequence[tuple[Request, Speech]], hidden: Tensor) -> None:
        """Choose the next codec id of each answer from its last hidden row `[B, C]`."""
        logits = self.model.logits(hidden)
        picked = torch.stack([s.sampler.pick(row) for (_, s), row in zip(speaking, logits, strict=True)])
        for (request, speech), code, number in zip(speaking, picked, picked.tolist(), strict=True):
            if number in self.model.config.stop_ids:
                speech.ended = True
                continue
            speech.track.code = code
            speech.codes.append(number)
            speech.new_codes.append(number)
            if len(speech.codes) >= request.options.max_codes:
                request.cut("audio")
            elif speech.cache.length >= self.lane.max_positions:
                request.cut("context")
            else:
                continue
            speech.ended = True

    def voice(self, request: Request, speech: Speech) -> None:
        """Sound for the new codes, as far as their chunk is complete."""
        waves = []
        if speech.new_codes:
            codes, speech.new_codes = speech.new_codes, []
            waves.append(self.vocoder.step(speech.sound, codes))
        if speech.ended and not speech.finished:
            speech.finished = True
            waves.append(self.vocoder.finish(speech.sound))
        for wave in waves:
            if len(wave):
                if request.first_audio is None:
                    request.first_audio = request.elapsed()
                request.events.append(AudioChunk(wave.cpu().numpy(), self.vocoder.sample_rate, speech.num_samples))
                speech.num_samples += len(wave)
