"""The whole model, and where its weights lie in a published checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from omni.encoders.audio import STACKS as AUDIO_STACKS
from omni.encoders.audio import ZEROS as AUDIO_ZEROS
from omni.encoders.vision import STACKS as VISION_STACKS
from omni.loading.checkpoint import Layout
from omni.models.config import OmniConfig
from omni.models.decoder import STACKS as DECODER_STACKS
from omni.models.decoder import Decoder
from omni.models.thinker import Thinker
from omni.talker.dual_track import DualTrack
from omni.talker.vocoder import FlowVocoder

SPEECH = ("talker.*", "token2wav.*")
LAYOUT = Layout(
    prefixes=(
        ("thinker.embed_tokens.", "thinker.model.embed_tokens."),
        ("thinker.decoder.", "thinker.model."),
        ("talker.embed_tokens.", "talker.model.embed_tokens."),
        ("talker.decoder.", "talker.model."),
    ),
    stacks={**DECODER_STACKS, **AUDIO_STACKS, **VISION_STACKS},
    zeros=AUDIO_ZEROS,
    # the first takes no part in inference; the second is computed, and was left in the published files by mistake
    unused=(
        "thinker.audio_tower.audio_bos_eos_token.weight",
        "token2wav.code2wav_dit_model.rotary_embed.inv_freq",
    ),
)


class Qwen2_5Omni(nn.Module):
    """Thinker, and with speech talker and vocoder."""

    talker: DualTrack | None
    token2wav: FlowVocoder | None

    def __init__(self, config: OmniConfig, *, speech: bool = True) -> None:
        super().__init__()
        self.config = config
        self.thinker = Thinker(config.thinker)
        self.talker = self.token2wav = None
        if speech and config.talker and config.talker_decoder and config.dit and config.bigvgan:
            self.talker = DualTrack(config.talker, Decoder(config.talker_decoder), config.dit.num_codes + 1)
            self.token2wav = FlowVocoder(config.dit, config.bigvgan)


def build(config: OmniConfig, *, speech: bool = True) -> Qwen2_5Omni:
    """The model without weights (on the meta device); computed tables are real."""
    with torch.device("meta"):
        return Qwen2_5Omni(config, speech=speech).eval().requires_grad_(False)


def is_voice(name: str) -> bool:
    """Whether a parameter is one of the talker's or the vocoder's."""
    return name.startswith(("talker.", "token2wav."))


def dtype_of(name: str, dtype: torch.dtype, mel_dtype: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype a parameter is kept in when the model runs in `dtype`.

    The vocoder always computes in float32, but for the products of its flow-matching blocks, which are kept in `mel_dtype`.
    """
    if name.startswith("token2wav.code2wav_dit_model.transformer_blocks.") and (".attn." in name or ".ff." in name):
        return mel_dtype
    return torch.float32 if name.startswith("token2wav.") else dtype
