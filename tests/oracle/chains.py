"""Both whole chains, ours and transformers', with what passes between their stages on record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from omni import Omni, Sampling
from omni.engine.options import Options
from omni.events import Done
from omni.prompt.prompt import Prompt
from omni.prompt.reader import Message
from omni.talker.voice import WHOLE

VOICE = "Chelsie"
NUM_IDS, NUM_CODES = 12, 60
SEED = 7
GREEDY_VOICE = Sampling(repetition_penalty=1.05)
SAMPLED = {"temperature": 0.8, "top_k": 30, "top_p": 0.9}


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
    talker_sequences: Tensor = field(default_factory=lambda: torch.empty(0))


def theirs(ref: Any, prompts: Sequence[Prompt], *, sampled: bool = False) -> Chain:
    """Run transformers' `generate` on left-padded prompts and record what passes between its stages.

    transformers does not speak the last id of a text that a limit has cut, so its limit is one more than ours.
    """
    chain, width = Chain(), max(p.num_tokens for p in prompts)
    pad = ref.config.thinker_config.pad_token_id
    ids = torch.stack([torch.cat((torch.full((width - p.num_tokens,), pad), p.ids)) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - p.num_tokens).long() for p in prompts])
    args: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **media_args(prompts)}
    if sampled:
        args |= {"thinker_do_sample": True, **{f"thinker_{k}": v for k, v in SAMPLED.items()}}
    torch.manual_seed(SEED)  # of the vocoder's noise
    with _tapped(ref, chain, mask.bool()), _draws(sampled, ref.config.thinker_config.text_config.vocab_size):
        sequences, wave = ref.generate(
            **args,
            speaker=VOICE,
            thinker_max_new_tokens=NUM_IDS + 1,
            talker_max_new_tokens=NUM_CODES,
            talker_do_sample=sampled,
        )
    stop = {ref.config.thinker_config.eos_token_id}
    chain.ids = [_until(row[width:].tolist(), stop)[:NUM_IDS] for row in sequences]
    chain.codes = [_until(row[width + 2 :].tolist(), {8292, 8294}) for row in chain.talker_sequences]
    chain.wave = wave if isinstance(wave, list) else [wave]
    return chain


def _until(values: list[int], stop: set[int]) -> list[int]:
    return values[: next((i for i, v in enumerate(values) if v in stop), len(values))]


def media_args(prompts: Sequence[Prompt]) -> dict[str, Any]:
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
        torch.multinomial = multinomial  # type: ignore[assignment]  # a stand-in
    try:
        yield
    finally:
        torch.multinomial = original


def ours(omni: Omni, messages: Sequence[list[Message]], *, sampled: bool = False) -> Chain:
    """Run our engine on the same prompts, packed into one batch, and record the same things."""
    chain, model = Chain(), omni.model
    assert model.talker
    options = Options(
        max_tokens=NUM_IDS,
        max_audio_seconds=NUM_CODES / 50,
        seed=SEED,
        **(SAMPLED if sampled else {"voice_sampling": GREEDY_VOICE}),
    )
    requests = [omni.runtime.request(m, VOICE, options) for m in messages]

    def positions(into: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: into.extend(args[1].split(list(args[3].segments.lens), 1))

    def first(into: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            into.extend(out[: len(requests) - len(into)].float())

        return hook

    for stage in (omni.runtime.think, omni.runtime.speak):
        assert stage
        omni.engine.call(stage.runner.cache.blocks.forget)  # so that every row is read, and seen here
    for request in requests:
        encode = omni.runtime.think.encode
        chain.vision += [rows.float() for rows in omni.engine.call(partial(encode, request.prompt.pictures))]
        chain.audio += [rows.float() for rows in omni.engine.call(partial(encode, request.prompt.sounds))]
    hooks = [
        model.thinker.decoder.register_forward_pre_hook(positions(chain.thinker_positions)),
        model.talker.decoder.register_forward_pre_hook(positions(chain.talker_positions)),
        model.thinker.lm_head.register_forward_hook(first(chain.thinker_logits)),
        model.talker.codec_head.register_forward_hook(first(chain.talker_logits)),
    ]
    try:
        done = {i: event for i, event in omni.engine.run(requests) if isinstance(event, Done)}
    finally:
        for hook in hooks:
            hook.remove()
    chain.ids = [list(done[i].token_ids) for i in range(len(requests))]
    chain.codes = [list(done[i].codes) for i in range(len(requests))]
    return chain


@torch.inference_mode()
def vocode(omni: Omni, chain: Chain) -> tuple[list[Tensor], list[Tensor]]:
    """Our mels from transformers' codes and noise, and our waves from transformers' mels."""
    vocoder = omni.model.token2wav
    assert vocoder
    voice = vocoder.prepare(omni.voices[VOICE])
    mels = []
    for codes, noise in zip(chain.codes, chain.noise, strict=True):
        state = vocoder.start(voice, chunks=WHOLE, noise=noise)
        for frame in [*((code,) for code in codes), None]:
            vocoder.push(state, frame)
        mels += vocoder.mels([state])
    return mels, [vocoder.code2wav_bigvgan_model(mel[None])[0] for mel in chain.mel]
