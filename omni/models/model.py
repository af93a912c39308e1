"""The whole model: what thinks, and what speaks its thoughts."""

from __future__ import annotations

from torch import nn

from omni.models.config import ModelConfig
from omni.models.thinker import Thinker
from omni.talker.dual_track import DualTrack
from omni.talker.vocoder import FlowVocoder


class OmniModel(nn.Module):
    """A thinker, and with a voice talker and vocoder."""

    talker: DualTrack | None
    token2wav: FlowVocoder | None

    def __init__(
        self, config: ModelConfig, thinker: Thinker, talker: DualTrack | None = None, token2wav: FlowVocoder | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.thinker = thinker
        self.talker, self.token2wav = talker, token2wav


def is_voice(name: str) -> bool:
    """Whether a parameter is one of the talker's or the vocoder's."""
    return name.startswith(("talker.", "token2wav."))
