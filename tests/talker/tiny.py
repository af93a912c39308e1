"""Small vocoders with random weights that make sane signals, and transformers' model with the same weights."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from omni.talker.bigvgan import Snake
from omni.talker.config import BigVGANConfig, DiTConfig, EcapaConfig
from omni.talker.vocoder import FlowVocoder, PreparedVoice, VocoderState
from omni.talker.voices import Voice

SMALL = (
    DiTConfig(
        hidden_size=32, num_layers=4, num_heads=3, head_dim=12, ff_mult=2, code_dim=24, num_codes=500, repeats=2,
        mel_dim=80, voice_dim=192, block_size=24, look_ahead_layers=(1,), look_backward_layers=(0, 2),
        ecapa=EcapaConfig(
            mel_dim=80, channels=(16, 16, 16, 16, 48), kernel_sizes=(5, 3, 3, 3, 1), dilations=(1, 2, 3, 4, 1),
            attention_channels=8, res2net_scale=2, se_channels=12, out_dim=32,
        ),
    ),
    BigVGANConfig(
        mel_dim=80, upsample_initial_channel=64, upsample_rates=(4, 3, 2), upsample_kernel_sizes=(8, 7, 4),
        resblock_kernel_sizes=(3, 5), resblock_dilation_sizes=((1, 3, 5), (1, 2, 4)),
    ),
)  # fmt: skip
DEEP = (
    DiTConfig(
        hidden_size=40, num_layers=12, num_heads=5, head_dim=10, ff_mult=3, code_dim=28, num_codes=70, repeats=2,
        mel_dim=40, voice_dim=52, block_size=24, look_ahead_layers=(5,), look_backward_layers=(0, 10),
        ecapa=EcapaConfig(
            mel_dim=40, channels=(12, 12, 12, 12, 36), kernel_sizes=(5, 3, 3, 3, 1), dilations=(1, 2, 3, 4, 1),
            attention_channels=10, res2net_scale=3, se_channels=14, out_dim=22,
        ),
    ),
    BigVGANConfig(
        mel_dim=40, upsample_initial_channel=64, upsample_rates=(5, 3, 2, 2, 2, 2),
        upsample_kernel_sizes=(11, 7, 4, 4, 4, 4), resblock_kernel_sizes=(3, 7, 11),
        resblock_dilation_sizes=((1, 3, 5),) * 3,
    ),
)  # fmt: skip
GEOMETRIES = {"small": SMALL, "deep": DEEP}


@cache
def vocoder(geometry: str) -> FlowVocoder:
    """The same for the whole process: leave it as it was."""
    model = FlowVocoder(*GEOMETRIES[geometry]).eval().requires_grad_(False)
    fill(model)
    return model


@cache
def voice(geometry: str, seed: int = 0, num_frames: int = 67) -> Voice:
    dit, _ = GEOMETRIES[geometry]
    g = torch.Generator().manual_seed(seed)
    cond = torch.randn(dit.voice_dim, generator=g)
    return Voice(f"voice {seed}", 7, cond, -5 + 2 * torch.randn(num_frames, dit.mel_dim, generator=g))


@cache
def prepared(geometry: str, seed: int = 0) -> PreparedVoice:
    return vocoder(geometry).prepare(voice(geometry, seed))


def codes(geometry: str, num: int) -> list[int]:
    g = torch.Generator().manual_seed(num)
    listed: list[int] = torch.randint(GEOMETRIES[geometry][0].num_codes + 1, (num,), generator=g).tolist()
    return listed


def push(model: FlowVocoder, state: VocoderState, codes: Sequence[int], *, ended: bool = False) -> None:
    for frame in [*((code,) for code in codes), *[None] * ended]:
        model.push(state, frame)


def made(model: FlowVocoder, state: VocoderState) -> Tensor:
    """The samples of all that is due."""
    waves = [state.mel.new_empty(0)]
    while model.due(state):
        waves += model.make([state])
    return torch.cat(waves)


def noise(geometry: str, num_frames: int) -> Tensor:
    return torch.randn(num_frames, GEOMETRIES[geometry][0].mel_dim, generator=torch.Generator().manual_seed(5))


def fill(model: nn.Module) -> None:
    """Each weight from a seed of its own name, scaled so that activations keep their size from layer to layer."""
    snakes = {id(p) for m in model.modules() if isinstance(m, Snake) for p in m.parameters()}
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        p.data.copy_(x * (0.2 if id(p) in snakes else _scale(name, p)))
        if name.endswith("proj_out.bias"):
            p.data -= 5  # log-mel values lie around -5


def _scale(name: str, p: Tensor) -> float:
    if p.ndim == 1:
        return 0.02 if "bigvgan" in name else 0.1
    if "codec_embed" in name:
        return 0.5
    gain = next((g for part, g in (("resblocks", 0.35), ("conv_post", 0.4), ("proj_out", 2.5)) if part in name), 1.0)
    # an upsampling kernel [in, out, k] strides by half its length or so
    fan_in = p.shape[0] * p.shape[2] / 2 if ".ups." in name else p[0].numel()
    return gain / math.sqrt(fan_in)


@cache
def reference(geometry: str) -> Any:
    """transformers' token2wav with the weights of `vocoder(geometry)`; that they fit is a check in itself."""
    from transformers import Qwen2_5OmniToken2WavConfig
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavModel

    dit, gan = GEOMETRIES[geometry]
    ecapa = dit.ecapa
    config = Qwen2_5OmniToken2WavConfig(
        dit_config={
            "hidden_size": dit.hidden_size, "num_hidden_layers": dit.num_layers, "num_attention_heads": dit.num_heads,
            "head_dim": dit.head_dim, "ff_mult": dit.ff_mult, "emb_dim": dit.code_dim, "num_embeds": dit.num_codes,
            "repeats": dit.repeats, "mel_dim": dit.mel_dim, "enc_emb_dim": dit.voice_dim, "block_size": dit.block_size,
            "look_ahead_layers": list(dit.look_ahead_layers), "look_backward_layers": list(dit.look_backward_layers),
            "enc_channels": list(ecapa.channels), "enc_kernel_sizes": list(ecapa.kernel_sizes),
            "enc_dilations": list(ecapa.dilations), "enc_attention_channels": ecapa.attention_channels,
            "enc_res2net_scale": ecapa.res2net_scale, "enc_se_channels": ecapa.se_channels, "enc_dim": ecapa.out_dim,
        },
        bigvgan_config={
            "mel_dim": gan.mel_dim, "upsample_initial_channel": gan.upsample_initial_channel,
            "upsample_rates": list(gan.upsample_rates), "upsample_kernel_sizes": list(gan.upsample_kernel_sizes),
            "resblock_kernel_sizes": list(gan.resblock_kernel_sizes),
            "resblock_dilation_sizes": [list(d) for d in gan.resblock_dilation_sizes],
        },
    )  # fmt: skip
    model = Qwen2_5OmniToken2WavModel(config).float().eval().requires_grad_(False)
    model.load_state_dict(vocoder(geometry).state_dict(), strict=True)
    return model
