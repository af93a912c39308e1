"""bfloat16 by teacher forcing: both programs read the same ids and speak the same codes, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from omni import Omni
from omni.engine.block_manager import CachedSequence
from omni.engine.options import Options
from omni.prompt.prompt import Prompt
from tests.oracle.cases import cases
from tests.oracle.chains import VOICE, media_args, theirs
from tests.oracle.tiny import reference, tiny


@torch.inference_mode()
def bfloat16_ratios(geometry: str) -> dict[str, float]:
    """Ours in bfloat16 against transformers in bfloat16: how far each is from transformers in float32, on the same ids.

    Greedy ids part after a few steps in bfloat16, so both are given the ids that float32 found.
    """
    folder = tiny(geometry)
    omni = Omni.load(folder, dtype="bfloat16", progress=False)
    exact, rough = reference(folder, torch.float32), reference(folder, torch.bfloat16)
    ratios: dict[str, list[float]] = defaultdict(list)
    for name in ("image", "video", "audio", "text"):
        messages = cases()[name]
        prompt = omni.runtime.request(messages[0], None, Options()).prompt
        truth = theirs(exact, [prompt])
        forced = torch.cat((prompt.ids, torch.tensor(truth.ids[0])))
        seen = [_forced(model, prompt, forced, truth.codes[0]) for model in (exact, rough)]
        mine = _forced_ours(omni, prompt, forced, truth.codes[0])
        for stage, right in seen[0].items():
            ratios[stage].append(_distance(mine[stage], right) / _distance(seen[1][stage], right))
    return {stage: max(values) for stage, values in ratios.items()}


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


def _forced(ref: Any, prompt: Prompt, ids: Tensor, codes: Sequence[int]) -> dict[str, Tensor]:
    """Every row of a transformers model that reads a given answer and speaks given codes."""
    media = {k.removeprefix("thinker_"): v for k, v in media_args([prompt]).items()}
    out: dict[str, Tensor] = {}
    hooks = [
        ref.thinker.visual.register_forward_hook(lambda m, a, o: out.update({"vision tower": o.pooler_output})),
        ref.thinker.audio_tower.proj.register_forward_hook(lambda m, a, o: out.update({"audio tower": o})),
    ]
    mask = torch.ones_like(ids)[None]
    result = ref.thinker(input_ids=ids[None], attention_mask=mask, output_hidden_states=True, **media)
    for hook in hooks:
        hook.remove()
    out["thinker logits"] = result.logits[0]
    embedded, hidden = result.hidden_states[0][0], result.hidden_states[-1][0]
    rows = _talker_rows(ref, prompt, ids, embedded, hidden, codes)
    positions = _talker_positions(prompt, len(codes))
    talker = ref.talker
    states = talker.model(inputs_embeds=talker.thinker_to_talker_proj(rows)[None], position_ids=positions[:, None])[0][0]
    out["talker logits"] = talker.codec_head(states)[prompt.num_tokens + 1 :]
    return out


def _talker_rows(ref: Any, prompt: Prompt, ids: Tensor, embedded: Tensor, hidden: Tensor, codes: Sequence[int]) -> Tensor:
    """What transformers' talker reads, row by row: prompt, voice, first word, then a code and a thought each."""
    talker, embed, code = ref.talker, ref.thinker.get_input_embeddings(), ref.talker.get_input_embeddings()
    thinker = ref.config.thinker_config
    places = torch.tensor([thinker.audio_token_index, thinker.image_token_index, thinker.video_token_index])
    thoughts = hidden + embedded.masked_fill(torch.isin(ids, places)[:, None], 0)
    P = prompt.num_tokens
    special = [ref.speaker_map[VOICE]["bos_token"], talker.text_eos_token, talker.text_pad_token]
    voice, end, pad = embed(torch.tensor(special))
    pad_code, start_code = code(torch.tensor([talker.codec_pad_token, talker.codec_bos_token]))
    reply = [*thoughts[P + 1 :], end, *[pad] * len(codes)]
    steps = [code(torch.tensor(c)) + r for c, r in zip(codes[:-1], reply, strict=False)]
    return torch.stack([*thoughts[:P], voice + pad_code, thoughts[P] + start_code, *steps])


def _talker_positions(prompt: Prompt, num_codes: int) -> Tensor:
    clock = prompt.clock_after()
    opening = torch.cat((prompt.positions, clock.text(2)), 1)
    return torch.cat((opening, (clock.top + 1 + torch.arange(num_codes - 1)).expand(3, -1)), 1)


def _forced_ours(omni: Omni, prompt: Prompt, ids: Tensor, codes: Sequence[int]) -> dict[str, Tensor]:
    """The same rows of our model."""
    model, out = omni.model, dict[str, Tensor]()
    talker, thinker = model.talker, model.thinker
    assert talker and omni.runtime.speak
    hooks = [
        thinker.visual.register_forward_hook(lambda m, a, o: out.update({"vision tower": o})),
        thinker.audio_tower.register_forward_hook(lambda m, a, o: out.update({"audio tower": torch.cat(o)})),
    ]
    rows_of = omni.runtime.think.encode(prompt.media)
    features = [rows_of[run.index][run.first : run.last] for run in prompt.runs]
    for hook in hooks:
        hook.remove()
    answer = ids[prompt.num_tokens :]
    rows, is_media = thinker.embed(ids, features)
    clock = prompt.clock_after()
    positions = torch.cat((prompt.positions, clock.text(len(answer))), 1)
    hidden = omni.runtime.think.runner.advance([CachedSequence()], [rows], [positions])[0]
    out["thinker logits"] = thinker.logits(hidden)
    P = prompt.num_tokens
    state = talker.start(omni.voices[VOICE], thinker.embed_tokens.weight, None, 0)
    state.thoughts.extend(talker.thought(hidden[P:], rows[P:]))
    state.text_ended = True
    read = [talker.prompt_rows(hidden[:P], rows[:P], is_media[:P]), *talker.step_rows([state])]
    for code in codes[:-1]:
        state.code = torch.tensor(code)
        read += talker.step_rows([state])
    runner = omni.runtime.speak.runner
    states = runner.advance([CachedSequence()], [torch.cat(read)], [_talker_positions(prompt, len(codes))])[0]
    out["talker logits"] = talker.logits(states)[P + 1 :]
    return out
