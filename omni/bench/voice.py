"""The vocoder: codes to log-mel frames, and those to a wave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omni.bench.case import BF16, F32, FEWER_BITS, Case, Setting, Weights, depth_of, weights
from omni.bench.models import Both, Shape, both, linears, pack
from omni.kernels.linear import gains_int8
from omni.talker.dit import Schedule
from omni.talker.flow import PUBLISHED, Solver, guide, stage_times
from omni.talker.vocoder import FlowVocoder, PreparedVoice
from omni.talker.voice import WHOLE

PART = "token2wav.code2wav_dit_model."


def flow(s: Setting) -> Iterator[Case]:
    """One evaluation of the flow-matching transformer, both rows of its guidance; a speech takes 36.

    transformers' is float32 throughout; ours is so too, and then with the products of its blocks in fewer bits.
    """
    if s.shape.config.dit is None:
        return
    for frames, name, share in ((s.sizes.frames, "flow matching", 1), (s.sizes.long_frames, "flow matching, long", 4)):
        pair = both(s.shape, PART, dtype=F32, device=s.device, depth=s.shape.depth(PART) // share)
        layers, body = linears(pair.ours, PART), packed(pair)
        case = evaluation(pair, frames, s, body, name)
        yield case
        for linear in layers.values():
            linear.to(BF16)
        for kept in ("bfloat16", "int8") if gains_int8(s.device) else ("bfloat16",):
            yield replace(
                case,
                name=f"{name}, {kept}",
                setting=case.setting.replace("float32", kept),
                dtype=BF16,
                moved=pack(pair.ours, layers, "int8" if kept == "int8" else "auto"),
                most=FEWER_BITS.get(kept),
            )


def packed(pair: Both) -> Weights:
    """The blocks' weights as they were; ours are then kept as loading keeps them."""
    assert pair.ours.token2wav
    body = weights(pair.ours.token2wav.code2wav_dit_model.transformer_blocks, without="attn_norm.")
    pack(pair.ours, linears(pair.ours, PART), "auto")
    return body


def evaluation(pair: Both, frames: int, s: Setting, body: Weights, name: str = "flow matching") -> Case:
    """One evaluation at so many frames, at the second of the schedule's times; body: as `packed` told it."""
    assert pair.ours.token2wav
    dit, ref = pair.ours.token2wav.code2wav_dit_model, pair.theirs.token2wav.code2wav_dit_model if pair.theirs else None
    config, time = dit.config, 1
    codes = torch.arange(frames // config.repeats, device=s.device) % config.num_codes
    frames = len(codes) * config.repeats
    x = torch.randn(frames, config.mel_dim, device=s.device)
    ref_mel, cond = torch.randn(300, config.mel_dim, device=s.device), torch.randn(config.voice_dim, device=s.device)
    schedule: Schedule = dit.schedule(PUBLISHED)
    window = dit.window(codes, dit.voice(ref_mel, cond)[None], [len(codes)])

    def evaluate() -> Tensor:
        conditional, unconditional = dit(x, window, schedule, time)
        return guide(conditional, unconditional, schedule.solver.guidance)

    def reference() -> Tensor:
        assert ref
        out = ref(
            hidden_states=x[None],
            quantized_code=codes[None],
            speaker_embedding=cond[None, None].expand(1, frames, -1),
            condition_vector=ref_mel[None],
            time_step=stage_times(schedule.grid)[time].to(s.device),
        )
        return guide(out[0], out[1], schedule.solver.guidance)

    return Case(
        name,
        f"float32, {depth_of(len(dit.transformer_blocks), s, PART)}, an evaluation of {frames} frames",
        evaluate,
        reference if ref else None,
        F32,
        moved=body.nbytes,
        operations=2 * body.products * 2 * frames,
    )


def wave(s: Setting) -> Iterator[Case]:
    """A second of sound from log-mel frames."""
    if s.shape.config.bigvgan is None:
        return
    pair = both(s.shape, "token2wav.code2wav_bigvgan_model.", dtype=F32, device=s.device)
    assert pair.ours.token2wav
    ours, ref = pair.ours.token2wav.code2wav_bigvgan_model, pair.theirs and pair.theirs.token2wav.code2wav_bigvgan_model
    frames = 100
    mel = torch.randn(1, frames, ours.config.mel_dim, device=s.device)
    yield Case(
        "wave",
        f"float32, {frames} frames",
        lambda: ours(mel),
        (lambda: ref(mel.transpose(1, 2))) if ref else None,
        F32,
        moved=weights(ours).nbytes,
        operations=2 * _convolved(ours, frames),
    )


def _convolved(vocoder: Any, frames: int) -> float:
    """Multiplications of BigVGAN's convolutions; a transposed one multiplies each of its inputs with all of its weights."""
    total, num = vocoder.conv_pre.weight.numel() * frames, len(vocoder.config.resblock_kernel_sizes)
    for i, up in enumerate(vocoder.ups):
        total += up[0].weight.numel() * frames
        frames *= up[0].stride[0]
        total += sum(weights(block).products for block in vocoder.resblocks[num * i : num * (i + 1)]) * frames
    return float(total + vocoder.conv_post.weight.numel() * frames)


def narrow(shape: Shape) -> Shape:
    """The shape with a BigVGAN of a quarter of the channels, whose time grows alike; a checkpoint's own stays as it is."""
    if shape.folder:
        return shape
    tree = deepcopy(dict(shape.tree))
    tree["token2wav_config"]["bigvgan_config"]["upsample_initial_channel"] //= 4
    return replace(shape, tree=tree)


def speaker(vocoder: FlowVocoder, solver: Solver, s: Setting) -> Callable[[float], Tensor]:
    """Makes so many seconds of sound in one window."""
    config, dit = vocoder.config, vocoder.code2wav_dit_model
    ref_mel, cond = torch.randn(300, config.mel_dim, device=s.device), torch.randn(config.voice_dim, device=s.device)
    voice = PreparedVoice(dit.voice(ref_mel, cond), dit.schedule(solver))

    def speak(seconds: float) -> Tensor:
        state = vocoder.start(voice, chunks=WHOLE)
        for i in range(round(seconds * vocoder.frames_per_second)):
            vocoder.push(state, (i % config.num_codes,))
        vocoder.push(state, None)
        return vocoder.make([state])[0]

    return speak
