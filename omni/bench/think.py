"""Thinker and talker, a step or a prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omni.bench import baseline
from omni.bench.case import FEWER_BITS, Case, Setting, distinct_of, name_of, normal, weights
from omni.bench.models import both, head_of, linears, pack
from omni.engine.block_manager import CachedSequence
from omni.engine.runner import ModelRunner
from omni.kernels.sampling import Sampler, Sampling
from omni.talker.dual_track import DualTrackState, TextEnd

THIRD = 3
"""The part of the thinker that reads a prompt, where weights are random: all of it takes minutes on a small CPU."""


def thinker(s: Setting) -> Iterator[Case]:
    """A step at a context through all layers and the head, in the stored weights and in fewer bits."""
    pair = both(s.shape, "thinker.decoder.", *head_of(s.shape), dtype=s.dtype, device=s.device, distinct=s.sizes.distinct)
    ours, ref = pair.ours.thinker, pair.their_thinker
    config, layers = ours.config.decoder, linears(pair.ours, "thinker.")
    body, head = weights(ours.decoder), ours.lm_head.weight
    runner = ModelRunner(ours.decoder, s.sizes.context + 256)
    taken = step(runner, ref.model if ref else None, s.sizes.context, config.hidden_size, s)
    told = f"{config.num_layers} layers{distinct_of(s, config.num_layers)}"

    def decode(name: str, kept: str, nbytes: int) -> Case:
        return Case(
            name,
            f"{kept}, {told}, a token at context {s.sizes.context}",
            lambda: ours.logits(taken.ours()),
            (lambda: ref.lm_head(taken.theirs())) if ref else None,
            s.dtype,
            moved=nbytes
            + (0 if "thinker.lm_head" in layers else head.nbytes)
            + runner.cache.store.bytes_per_row * s.sizes.context,
            operations=2 * (body.products + head.numel()),
            most=FEWER_BITS.get(kept.partition(",")[0]),
        )

    nbytes = pack(pair.ours, layers, "auto")
    yield decode("thinker decode", name_of(s.dtype), nbytes)
    for kept in ("int8", "int4"):
        yield decode(f"thinker decode {kept}", f"{kept}, transformers {name_of(s.dtype)}", pack(pair.ours, layers, kept))


def prefill(s: Setting) -> Iterator[Case]:
    """A prompt through a third of the layers, and a third of the head: transformers' forward makes logits of every row."""
    part, num, share = "thinker.decoder.", s.sizes.prompt, 1 if s.shape.folder else THIRD
    whole = s.shape.depth(part)
    pair = both(
        s.shape, part, *head_of(s.shape), dtype=s.dtype, device=s.device, depth=whole // share, distinct=s.sizes.distinct
    )
    ours, ref = pair.ours.thinker, pair.their_thinker
    for head in (ours.lm_head, ref.lm_head) if ref else (ours.lm_head,):
        head.weight = nn.Parameter(head.weight[: len(head.weight) // share], requires_grad=False)
    rows = normal(num, ours.config.decoder.hidden_size, s=s)
    positions = torch.arange(num, device=s.device).expand(3, -1)
    runner, layers, body = ModelRunner(ours.decoder, num + 256), linears(pair.ours, "thinker."), weights(ours.decoder)
    head_size = ours.lm_head.weight.numel()

    def read() -> Tensor:
        sequence = CachedSequence()
        hidden = runner.advance([sequence], [rows], [positions])[0]
        runner.cache.blocks.free(sequence)
        return ours.logits(hidden[-1:])

    def reference() -> Tensor:
        assert ref
        at = baseline.positions(positions, ours.decoder)
        hidden = ref.model(inputs_embeds=rows[None], position_ids=at, use_cache=True)[0]
        out: Tensor = ref.lm_head(hidden)[:, -1:]
        return out

    told = f"{len(ours.decoder.layers)} of {whole} layers and as much of the head, {num} tokens"
    for kept in ("auto", "int8"):
        nbytes, dtype = pack(pair.ours, layers, kept), name_of(s.dtype)
        yield Case(
            "thinker prefill" if kept == "auto" else f"thinker prefill {kept}",
            f"{dtype if kept == 'auto' else f'{kept}, transformers {dtype}'}, {told}",
            read,
            reference if ref else None,
            s.dtype,
            moved=nbytes,
            operations=2 * (body.products * num + head_size),
            most=FEWER_BITS.get(kept),
        )


def talker(s: Setting) -> Iterator[Case]:
    """One codec step: a thought and a code in, logits out."""
    if s.shape.config.talker is None:
        return
    pair = both(s.shape, "talker.", dtype=s.dtype, device=s.device)
    ours, ref = pair.ours.talker, pair.theirs.talker if pair.theirs else None
    assert ours
    thought = normal(1, ours.config.embedding_size, s=s)
    code = torch.tensor([3], device=s.device)
    sampler = Sampler(Sampling(), ours.config.vocab_size, seed=0, device=s.device)
    ending = TextEnd(thought[0], thought[0])
    state = DualTrackState(sampler=sampler, speaker=thought[0], ending=ending, code=code[0], text_ended=True)
    runner = ModelRunner(ours.decoder, s.sizes.context + 256)  # type: ignore[arg-type]  # a talker holds its decoder as a Module
    taken = step(runner, ref.model if ref else None, s.sizes.context, ours.config.hidden_size, s)

    def reference() -> Tensor:
        assert ref
        row = ref.thinker_to_talker_proj(ref.model.embed_tokens(code[None]) + thought)
        out: Tensor = ref.codec_head(taken.theirs(row))
        return out

    body, head, nbytes = (
        weights(ours.decoder),
        ours.codec_head.weight,
        pack(pair.ours, linears(pair.ours, "talker."), "auto"),
    )
    yield Case(
        "talker step",
        f"{name_of(s.dtype)}, {runner.decoder.config.num_layers} layers, a code at context {s.sizes.context}",
        lambda: ours.logits(taken.ours(ours.step_rows([state])[0])),
        reference if ref else None,
        s.dtype,
        moved=nbytes + runner.cache.store.bytes_per_row * s.sizes.context,
        operations=2 * (body.products + head.numel()),
    )


@dataclass(frozen=True)
class Step:
    """One more row behind a context that both caches hold; what it adds is forgotten again."""

    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]


def step(runner: ModelRunner, ref: Any, context: int, width: int, s: Setting) -> Step:
    """A step of our decoder and of transformers' `ref`, if there is one, on the same row behind the same context."""
    row = normal(1, width, s=s)
    held, at = CachedSequence(), torch.full((3, 1), context, device=s.device)
    runner.cache.table([held], [context])
    runner.cache.commit([held], [context])
    runner.cache.store.keys.normal_()
    runner.cache.store.values.normal_()
    cache = (
        baseline.cache(ref, runner.cache.store.keys, runner.cache.store.values, held.blocks, context)
        if ref is not None
        else None
    )

    def ours(row: Tensor = row) -> Tensor:
        hidden = runner.advance([held], [row], [at])[0]
        runner.cache.blocks.cut(held, context)
        return hidden

    def theirs(row: Tensor = row) -> Tensor:
        places = baseline.positions(at, runner.decoder)
        hidden: Tensor = ref(inputs_embeds=row.view(1, 1, -1), position_ids=places, past_key_values=cache)[0]
        assert cache
        cache.crop(context)
        return hidden

    return Step(ours, theirs)
