"""Ours and transformers on the same weights, stage by stage: `python -m tests.oracle.parity` prints the table.

Every case goes through both whole chains, from the prompt to the wave, and what passes between the stages is compared. The
vocoder's two stages are given transformers' noise and transformers' mel, so that each row shows an error of its own.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
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
from omni.cache import CachedSequence
from omni.engine.request import Options
from omni.events import Done
from omni.prompt import Message, Prompt
from omni.talker.dual_track import TextEnd
from omni.talker.vocoder import WHOLE
from tests.encoders.samples import video_file
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
    talker_sequences: Tensor = field(default_factory=lambda: torch.empty(0))


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


@cache
def cases() -> dict[str, list[list[Message]]]:
    """Messages of each case; one list of messages for each row of its batch."""
    folder = Path(tempfile.mkdtemp(prefix="omni-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    film = video_file(folder / "film.mp4", "h264", count=43, size=(112, 112), fps=10, sound="aac")
    return {
        "text": [_user(_text("Say hello."))],
        "image": [_user(_picture(252, 140), _text("What is this?"))],
        "several images": [_user(_picture(252, 140), _picture(84, 300, 1), _text("And"), _picture(60, 60, 2), _text("?"))],
        "video": [_user(_clip(6, 112, 168), _text("What moves?"))],
        "wide video": [_user(_clip(4, 1200, 56), _text("What moves?"))],
        "audio": [_user(_sound(5.23), _text("What do you hear?"))],
        "several audios": [_user(_sound(1.0), _text("then"), _sound(2.71, 1), _text("?"))],
        "image and audio": [_user(_picture(140, 140), _sound(1.5))],
        "audio in video": [_user({"type": "video", "video": film, "max_pixels": 128 * 784}, _text("What happens?"))],
        "batch with padding": [_user(_text("Say hello.")), _user(_text("Say hello to all of us, please."))],
    }


# ---- transformers


def theirs(ref: Any, prompts: Sequence[Prompt], *, sampled: bool = False) -> Chain:
    """Run transformers' `generate` on left-padded prompts and record what passes between its stages.

    transformers does not speak the last id of a text that a limit has cut, so its limit is one more than ours.
    """
    chain, width = Chain(), max(p.num_tokens for p in prompts)
    pad = ref.config.thinker_config.pad_token_id
    ids = torch.stack([torch.cat((torch.full((width - p.num_tokens,), pad), p.ids)) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - p.num_tokens).long() for p in prompts])
    args: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **_media(prompts)}
    if sampled:
        args |= {"thinker_do_sample": True, **{f"thinker_{k}": v for k, v in SAMPLED.items()}}
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
    requests = [omni.request(m, VOICE, options) for m in messages]

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


@torch.inference_mode()
def vocode(omni: Omni, chain: Chain) -> tuple[list[Tensor], list[Tensor]]:
    """Our mels from transformers' codes and noise, and our waves from transformers' mels."""
    vocoder = omni.model.token2wav
    assert vocoder
    voice = vocoder.prepare(omni.voices[VOICE])
    mels = []
    for codes, noise in zip(chain.codes, chain.noise, strict=True):
        state = vocoder.start(voice, chunks=WHOLE, noise=noise)
        state.ended = not vocoder.mels(state, codes)
        mels.append(torch.cat(vocoder.mels(state)))
    return mels, [vocoder.code2wav_bigvgan_model(mel[None])[0] for mel in chain.mel]


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


def run_case(omni: Omni, ref: Any, messages: Sequence[list[Message]], *, sampled: bool = False) -> Errors:
    """Both chains on one case."""
    prompts = [omni.request(m, VOICE, Options()).prompt for m in messages]
    mine, other = ours(omni, messages, sampled=sampled), theirs(ref, prompts, sampled=sampled)
    return compare(mine, other, *vocode(omni, other))


def float32_errors(geometry: str) -> dict[str, Errors]:
    """Errors of every case on one geometry."""
    folder = tiny(geometry)
    omni, ref = Omni.load(folder, dtype="float32", progress=False), reference(folder, torch.float32)
    found = {name: run_case(omni, ref, messages) for name, messages in cases().items()}
    found["sampled"] = run_case(omni, ref, cases()["text"], sampled=True)
    folder = tiny(geometry, seed=1, ends=True)
    omni, ref = Omni.load(folder, dtype="float32", progress=False), reference(folder, torch.float32)
    found["early stop"] = run_case(omni, ref, cases()["text"])
    found["batch, early stop"] = run_case(omni, ref, cases()["batch with padding"])
    return found


# ---- bfloat16, by teacher forcing


@torch.inference_mode()
def bfloat16_ratios(geometry: str) -> Errors:
    """Ours in bfloat16 against transformers in bfloat16: how far each is from transformers in float32, on the same ids.

    Greedy ids part after a few steps in bfloat16, so both are given the ids that float32 found.
    """
    folder = tiny(geometry)
    omni = Omni.load(folder, dtype="bfloat16", progress=False)
    exact, rough = reference(folder, torch.float32), reference(folder, torch.bfloat16)
    ratios: dict[str, list[float]] = defaultdict(list)
    for name in ("image", "video", "audio", "text"):
        messages = cases()[name]
        prompt = omni.request(messages[0], None, Options()).prompt
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
    media = {k.removeprefix("thinker_"): v for k, v in _media([prompt]).items()}
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
    assert talker and omni.engine.talker
    hooks = [
        thinker.visual.register_forward_hook(lambda m, a, o: out.update({"vision tower": o})),
        thinker.audio_tower.register_forward_hook(lambda m, a, o: out.update({"audio tower": torch.cat(o)})),
    ]
    features = omni.engine.encode(prompt)
    for hook in hooks:
        hook.remove()
    answer = ids[prompt.num_tokens :]
    rows, is_media = thinker.embed(ids, features)
    clock = prompt.clock_after()
    positions = torch.cat((prompt.positions, clock.text(len(answer))), 1)
    hidden = omni.engine.thinker.advance([CachedSequence()], [rows], [positions])[0]
    out["thinker logits"] = thinker.logits(hidden)
    P, thoughts = prompt.num_tokens, hidden + rows
    embed, config = thinker.embed_tokens.weight, talker.config
    state = talker.start(TextEnd(embed[config.text_end_id], embed[config.text_pad_id]))
    state.rows.extend(thoughts[P + 1 :])
    state.text_ended = True
    opening = talker.opening_rows(embed[omni.voices[VOICE].bos_id], thoughts[P])
    read = [talker.prompt_rows(hidden[:P], rows[:P], is_media[:P]), opening]
    for code in codes[:-1]:
        state.code = torch.tensor(code)
        read.append(talker.step_rows([state]))
    lane = omni.engine.talker
    states = lane.advance([CachedSequence()], [torch.cat(read)], [_talker_positions(prompt, len(codes))])[0]
    out["talker logits"] = talker.logits(states)[P + 1 :]
    return out


# ---- the table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", action="store_true", help="print every case too")
    parser.add_argument("--geometry", nargs="*", default=["7b-like", "3b-like", "odd", "mixed"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    found = {g: float32_errors(g) for g in track(args.geometry, "parity", console=Console(stderr=True), transient=True)}
    passed = True
    table = Table(title=f"largest error over {len(next(iter(found.values())))} cases, float32", title_justify="left")
    for column in ("stage", *found, "limit"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, limit in LIMITS.items():
        worst = [max(errors[stage] for errors in cases.values() if stage in errors) for cases in found.values()]
        passed &= all(e <= limit for e in worst)
        table.add_row(stage, *(_cell(e, limit) for e in worst), "identical" if limit == 0 else f"{limit:.0e}")
    console.print(table)
    if args.cases:
        for geometry, cases in found.items():
            for case, errors in cases.items():
                console.print(geometry, case, {k: f"{v:.1e}" for k, v in errors.items()}, soft_wrap=True, highlight=False)
    ratios = {g: bfloat16_ratios(g) for g in ("mixed", "7b-like")}
    table = Table(title="our error in bfloat16 over transformers' own, on the same ids", title_justify="left")
    for column in ("stage", *ratios, "limit"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in next(iter(ratios.values())):
        row = [ratios[g][stage] for g in ratios]
        passed &= all(r <= BF16_LIMIT for r in row)
        table.add_row(stage, *(f"{r:.2f}" for r in row), f"{BF16_LIMIT:.2f}")
    console.print(table)
    console.print("every row is within its limit" if passed else "[bold red]a row misses its limit")
    return 0 if passed else 1


def _cell(error: float, limit: float) -> str:
    text = ("identical" if error == 0 else "differs") if limit == 0 else f"{error:.1e}"
    return text if error <= limit else f"[bold red]{text}"


if __name__ == "__main__":
    sys.exit(main())
