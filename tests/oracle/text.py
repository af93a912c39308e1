"""Models of text, ours and transformers': logits of two chats, whole and read in pieces, and what is answered greedily."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from omni import Omni
from omni.engine.block_manager import CachedSequence
from omni.engine.options import Options
from omni.prompt.reader import Message
from tests.oracle.tiny import reference, tiny

LONG = (
    "A rotary table that was stretched, and a cache that holds several pages, only show in a prompt that is longer than the "
    "texts of training and than a page, so this one goes on for a while."
)
CHATS: tuple[list[Message], ...] = tuple([{"role": "user", "content": text}] for text in ("Hi.", LONG))
LIMITS = {"text logits": 1e-4, "text logits, in pieces": 1e-4, "greedy ids": 0.0}
"""Largest absolute error allowed in float32; 0 means identical."""
NUM_IDS = 24
PIECES = (1, 7, 64, 65)
"""Rows that are read at once, the rest last."""


@cache
def loaded(variant: str) -> Omni:
    return Omni.load(tiny(variant), device="cpu", dtype="float32", progress=False)


@torch.inference_mode()
def errors(variant: str) -> dict[str, float]:
    """Ours against transformers' in float32, at their worst over the chats; of ids, whether any differs."""
    omni, ref = loaded(variant), reference(tiny(variant), torch.float32)
    found = dict.fromkeys(LIMITS, 0.0)
    for chat in CHATS:
        ids = omni.runtime.request(chat, None, Options()).prompt.ids
        truth = ref(ids[None]).logits[0]
        for name, pieces in (("text logits", ()), ("text logits, in pieces", PIECES)):
            found[name] = max(found[name], float((logits(omni, ids, pieces) - truth).abs().max()))
        answer = ref.generate(ids[None], max_new_tokens=NUM_IDS, do_sample=False, repetition_penalty=1.0)[0, len(ids) :]
        found["greedy ids"] = max(found["greedy ids"], float(greedy(omni, chat) != answer.tolist()))
    return found


@torch.inference_mode()
def logits(omni: Omni, ids: Tensor, pieces: Sequence[int] = ()) -> Tensor:
    """`[N, V]` of every row, read in pieces of so many rows."""
    thinker, runner, sequence = omni.model.thinker, omni.runtime.think.runner, CachedSequence()
    clock = omni.runtime.request(CHATS[0], None, Options()).prompt.clock_after()
    clock.next = 0
    rows = []
    for piece in _cut(ids, pieces):
        rows += runner.advance([sequence], [thinker.embed(piece)[0]], [clock.text(len(piece))])
    runner.cache.blocks.free(sequence)
    return thinker.logits(torch.cat(rows))


def _cut(ids: Tensor, pieces: Sequence[int]) -> Sequence[Tensor]:
    sizes = [size for i, size in enumerate(pieces) if sum(pieces[: i + 1]) < len(ids)]
    return ids.split([*sizes, len(ids) - sum(sizes)])


def greedy(omni: Omni, chat: Sequence[Message]) -> list[int]:
    sampling = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    return list(omni.generate(chat, max_tokens=NUM_IDS, **sampling).done.token_ids)  # type: ignore[arg-type]  # options spread
