"""The thinker: senses and text in, hidden rows and logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omni.encoders.audio import AudioTower
from omni.encoders.vision import VisionTower
from omni.kernels.layers import Embedding, Linear
from omni.models.config import ThinkerConfig
from omni.models.decoder import Decoder


class Thinker(nn.Module):
    """Args:
    audio_tower, visual: its ears and eyes, where it has any.
    """

    audio_tower: AudioTower | None
    visual: VisionTower | None

    def __init__(
        self, config: ThinkerConfig, audio_tower: AudioTower | None = None, visual: VisionTower | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = audio_tower
        self.visual = visual
        self.embed_tokens = Embedding(config.vocab_size, config.decoder.hidden_size)
        self.decoder = Decoder(config.decoder)
        self.lm_head = Linear(config.decoder.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def embed(self, ids: Tensor, features: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Input rows of a prompt.

        Args:
            ids: int64 `[N]`, with the media's placeholder ids where their rows go.
            features: rows `[n, C]` of each sound, picture and clip, to be put in order of appearance. The rows of a
                clip with sound alternate: give the runs in the prompt's order.

        Returns:
            Rows `[N, C]`, and which of them are media, bool `[N]`.
        """
        media = self.config.media
        rows = self.embed_tokens(ids)
        if media is None:
            return rows, torch.zeros_like(ids, dtype=torch.bool)
        is_media = (ids == media.audio) | (ids == media.image) | (ids == media.video)
        if features:
            joined = torch.cat(list(features)).to(rows)
            rows = rows.masked_scatter(is_media[:, None], joined)
        return rows, is_media

    def logits(self, hidden: Tensor) -> Tensor:
        """`[N, V]` in the model's dtype."""
        return self.lm_head(hidden)
