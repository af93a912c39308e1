"""Ours and transformers on the same weights, stage by stage: `python -m tests.oracle.parity` prints the table.

Every case goes through both whole chains, from the prompt to the wave, and what passes between the stages is compared. The
vocoder's two stages are given transformers' noise and transformers' mel, so that each row shows an error of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from omni import Omni, Sampling
from omni.encoders.features import Picture
from omni.engine.request import Options
from omni.errors import OmniError
from omni.events import Done
from omni.prompt import Message, Prompt
from tests.oracle.tiny import reference, tiny

VOICE = "Chelsie"
NUM_IDS, NUM_CODES = 12, 60
SEED = 7
GREEDY_VOICE = Sampling(repetition_penalty=1.05)
SAMPLED = {"temperature": 0.8, "top_k": 30, "top_p": 0.9}

LIMITS = {
    "positions": 0.0,
    "vision tower": 1e-5,
    "audio tower": 1e-5,
    "thinker logits": 1e-4,
    "text ids": 0.0,
    "talker logits": 1e-4,
    "codes": 0.0,
    "mel, same noise": 1e-4,
    "wave, same mel": 1e-5,
}
"""Largest absolute error allowed in float32; 0 means identical."""
BF16_LIMIT = 2.0
"""Our error in bfloat16 over transformers' own, both against transformers in float32 and on the same ids."""

Errors = dict[str, float]


@dataclass
class Chain:
    """What passed between the stages of one run, one entry for each row of the batch where there may be several."""

    thinker_positions: list[Tensor] = field(default_factory=list)
    talker_positions: list[Tensor] = field(default_factory=list)
    vision: list[Tensor] = field(default_factory=list)
    audio: list[Tensor] = field(default_factory=list)
    thinker_logits: list[Tensor] = field(default_factory=list)
    talker_logits: list[Tensor] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    mel: list[Tensor] = field(default_factory=list)
    wave: list[Tensor] = field(default_factory=list)


# ---- inputs


def _wave(seconds: float, seed: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """A sweep with noise, at 16 kHz."""
    t = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(seed).normal(size=t.shape)
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.02 * noise).astype(np.float32), 16000


def _image(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _user(*parts: Message) -> list[Message]:
    return [{"role": "user", "content": list(parts)}]


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _picture(width: int, height: int, seed: int = 0) -> Message:
    return {"type": "image", "image": _image(width, height, seed)}


def _sound(seconds: float, seed: int = 0) -> Message:
    return {"type": "audio", "audio": _wave(seconds, seed)}


def _clip(frames: int, width: int, height: int, **how: object) -> Message:
    return {"type": "video", "video": [_image(width, height, i) for i in range(frames)], "max_pixels": 128 * 784, **how}


CASES: dict[str, list[list[Message]]] = {
    "text": [_user(_text("Say hello."))],
    "image": [_user(_picture(252, 140), _text("What is this?"))],
    "several images": [_user(_picture(252, 140), _picture(84, 300, 1), _text("And"), _picture(60, 60, 2), _text("?"))],
    "video": [_user(_clip(6, 112, 168), _text("What moves?"))],
    "wide video": [_user(_clip(4, 1200, 56), _text("What moves?"))],
    "audio": [_user(_sound(5.23), _text("What do you hear?"))],
    "several audios": [_user(_sound(1.0), _text("then"), _sound(2.71, 1), _text("?"))],
    "image and audio": [_user(_picture(140, 140), _sound(1.5))],
    "batch with padding": [_user(_text("Say hello.")), _user(_text("Say hello to all of us, please."))],
}


# ---- transformers


def theirs(ref: Any, prompts: Sequence[Prompt], *, eos: int | None, sampled: bool = False) -> Chain:
    """Run transformers' `generate` on left-padded prompts and record what passes between its stages."""
    chain, width = Chain(), max(p.num_tokens for p in prompts)
    pad = ref.config.thinker_config.pad_token_id
    ids = torch.stack([torch.cat((torch.full((width - p.num_tokens,), pad), p.ids)) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - p.num_tokens).long() for p in prompts])
    args: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **_media(prompts)}
    if sampled:
        args |= {"thinker_do_sample": True, **{f"thinker_{k}": v for k, v in SAMPLED.items()}}
    if eos is not None:
        args["thinker_eos_token_id"] = [eos]
    with _tapped(ref, chain, mask.bool()), _draws(sampled, ref.config.thinker_config.text_config.vocab_size):
        sequences, wave = ref.generate(
            **args, speaker=VOICE, thinker_max_new_tokens=NUM_IDS, talker_max_new_tokens=NUM_CODES, talker_do_sample=sampled
        )
    stop = {ref.config.thinker_config.eos_token_id} if eos is None else {eos}
    chain.ids = [_until(row[width:].tolist(), stop) for row in sequences]
    chain.codes = [_until(row[width + 2 :].tolist(), {8292, 8294}) for row in chain.talker_sequences]
    chain.wave = wave if isinstance(wave, list) else [wave]
    return chain


def _until(values: list[int], stop: set[int]) -> list[int]:
    return values[: next((i for i, v in enumerate(values) if v in stop), len(values))]


def _media(prompts: Sequence[Prompt]) -> dict[str, Any]:
    pictures = [p for prompt in prompts for p in prompt.pictures]
    stills = [p for p in pictures if p.second_per_grid is None]
    clips = [p for p in pictures if p.second_per_grid is not None]
    sounds = [s.mel for prompt in prompts for s in prompt.sounds]
    args: dict[str, Any] = {}
    # without the prefix, transformers 5.17 hands the pixels to the talker as well, which rejects them
    for name, some in (("pixel_values", stills), ("pixel_values_videos", clips)):
        if some:
            args[f"thinker_{name}"] = torch.cat([p.patches for p in some])
    if stills:
        args["image_grid_thw"] = torch.tensor([p.grid for p in stills])
    if clips:
        args["video_grid_thw"] = torch.tensor([p.grid for p in clips])
        args["video_second_per_grid"] = torch.tensor([p.second_per_grid for p in clips])
    if sounds:
        frames = torch.tensor([mel.shape[1] for mel in sounds])
        args["feature_attention_mask"] = (torch.arange(int(frames.max()) + 50) < frames[:, None]).long()
        args["input_features"] = torch.stack(
            [nn.functional.pad(mel, (0, int(frames.max()) + 50 - mel.shape[1]), value=-1.5) for mel in sounds]
        )
        args["use_audio_in_video"] = bool(clips)
    return args


@contextmanager
def _tapped(ref: Any, chain: Chain, real: Tensor) -> Iterator[None]:
    """Record what flows through transformers' modules; `real` is false at padding, `[B, P]`."""
    wav, talker = ref.token2wav, ref.talker
    steps: dict[str, int] = defaultdict(int)

    def positions(into: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            at = args[1]  # [3, B, N]
            here = nn.functional.pad(real, (0, max(0, at.shape[2] - real.shape[1])), value=True)[:, -at.shape[2] :]
            into.extend(at[:, b, here[b]] for b in range(at.shape[1]))

        return hook

    def first(name: str, into: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            steps[name] += 1
            if steps[name] == 1:
                into.extend(out[:, -1].float())

        return hook

    def noise(_: nn.Module, args: Any, kwargs: dict[str, Tensor]) -> None:
        steps["dit"] += 1
        if steps["dit"] % 36 == 1:
            chain.noise.append(kwargs["hidden_states"][0].clone())

    def mel(_: nn.Module, args: tuple[Tensor]) -> None:
        chain.mel.append(args[0][0].T.clone())

    def vision(_: nn.Module, args: Any, out: Any) -> None:
        chain.vision.append(out.pooler_output.float())

    def audio(_: nn.Module, args: Any, out: Tensor) -> None:
        chain.audio.append(out.float())

    hooks = [
        ref.thinker.model.rotary_emb.register_forward_pre_hook(positions(chain.thinker_positions)),
        talker.model.rotary_emb.register_forward_pre_hook(positions(chain.talker_positions)),
        ref.thinker.lm_head.register_forward_hook(first("thinker", chain.thinker_logits)),
        talker.codec_head.register_forward_hook(first("talker", chain.talker_logits)),
        ref.thinker.visual.register_forward_hook(vision),
        ref.thinker.audio_tower.proj.register_forward_hook(audio),
        wav.code2wav_dit_model.register_forward_pre_hook(noise, with_kwargs=True),
        wav.code2wav_bigvgan_model.register_forward_pre_hook(mel),
    ]
    generate = talker.generate

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        chain.talker_sequences = generate(*args, **kwargs)
        return chain.talker_sequences

    talker.generate = recorded
    try:
        yield
    finally:
        talker.generate = generate
        for hook in hooks:
            hook.remove()


@contextmanager
def _draws(sampled: bool, text_vocab: int) -> Iterator[None]:
    """Let transformers draw the numbers that our samplers draw: a draw from odds p is the largest p / Exp(1)."""
    generators = {True: torch.Generator().manual_seed(SEED), False: torch.Generator().manual_seed(SEED + 1)}
    original = torch.multinomial

    def multinomial(probs: Tensor, num_samples: int, **_: object) -> Tensor:
        race = torch.empty(probs.shape[1:]).exponential_(1, generator=generators[probs.shape[-1] == text_vocab])
        return (probs / race).argmax(-1, keepdim=True)

    if sampled:
        torch.multinomial = multinomial  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.multinomial = original


# ---- ours


def ours(omni: Omni, messages: Sequence[list[Message]], *, eos: int | None, sampled: bool = False) -> Chain:
    """Run our engine on the same prompts, packed into one batch, and record the same things."""
    chain, model = Chain(), omni.model
    options = Options(
        max_tokens=NUM_IDS,
        max_audio_seconds=NUM_CODES / 50,
        seed=SEED,
        **(SAMPLED if sampled else {"voice_sampling": GREEDY_VOICE}),
    )
    requests = [omni.request(m, VOICE, options) for m in messages]
    if eos is not None:
        for request in requests:
            request.eos_ids = frozenset({eos})

    def positions(into: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: into.extend(args[1].split(list(args[3].segments.lens), 1))

    def first(into: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            if len(into) < len(requests):
                into.extend(out[-1:].float())

        return hook

    hooks = [
        model.thinker.decoder.register_forward_pre_hook(positions(chain.thinker_positions)),
        model.talker.decoder.register_forward_pre_hook(positions(chain.talker_positions)),
        model.thinker.lm_head.register_forward_hook(first(chain.thinker_logits)),
        model.talker.codec_head.register_forward_hook(first(chain.talker_logits)),
        model.thinker.visual.register_forward_hook(lambda m, a, out: chain.vision.append(out.float())),
        model.thinker.audio_tower.register_forward_hook(lambda m, a, out: chain.audio.append(torch.cat(out).float())),
    ]
    try:
        done = {i: event for i, event in omni.engine.run(requests) if isinstance(event, Done)}
    finally:
        for hook in hooks:
            hook.remove()
    chain.ids = [list(done[i].token_ids) for i in range(len(requests))]
    chain.codes = [list(done[i].codes) for i in range(len(requests))]
    return chain


def vocode(omni: Omni, chain: Chain) -> tuple[list[Tensor], list[Tensor]]:
    """Our mels from transformers' codes and noise, and our waves from transformers' mels."""
    vocoder = omni.model.token2wav
    mels, waves = [], []
    return mels, waves


# ---- the table


def compare(a: Chain, b: Chain, mels: list[Tensor], waves: list[Tensor]) -> Errors:
    """Largest absolute error of each stage between ours `a` and transformers' `b`; inf where lengths differ."""
    batch = len(b.ids)
    steps = batch if batch > 1 else min(len(a.thinker_positions), len(b.thinker_positions))
    codec_steps = batch if batch > 1 else min(len(a.talker_positions), len(b.talker_positions))
    errors = {
        "positions": max(
            _worst(a.thinker_positions[:steps], b.thinker_positions[:steps]),
            _worst(a.talker_positions[:codec_steps], b.talker_positions[:codec_steps]),
        ),
        "thinker logits": _worst(a.thinker_logits, b.thinker_logits),
        "text ids": float(a.ids != b.ids),
        "talker logits": _worst(a.talker_logits, b.talker_logits),
        "codes": float(a.codes != b.codes),
        "mel, same noise": _worst(mels, b.mel),
        "wave, same mel": _worst(waves, b.wave),
    }
    if a.vision:
        # ours encodes stills and clips in one call, in prompt order; transformers in two
        errors["vision tower"] = _worst(a.vision, b.vision)
    if a.audio:
        errors["audio tower"] = _worst(a.audio, b.audio)
    return errors


def _worst(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return float("inf")
    return max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)
