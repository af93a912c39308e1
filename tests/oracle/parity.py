"""Ours and transformers on the same weights, stage by stage: `python -m tests.oracle.parity` prints the table.

Every case goes through both whole chains, from the prompt to the wave, or to the last id where a model only writes, and what
passes between the stages is compared. The vocoder's two stages are given transformers' noise and transformers' mel, so that
each row shows an error of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from omni import Omni
from omni.engine.options import Options
from omni.prompt.reader import Message
from omni.talker.voice import WHOLE, ChunkPolicy
from tests.oracle import text
from tests.oracle.cases import cases
from tests.oracle.chains import SEED, VOICE, Chain, ours, theirs, vocode
from tests.oracle.forced import bfloat16_ratios
from tests.oracle.make_tiny_text import VARIANTS
from tests.oracle.tiny import reference, tiny

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


STREAM_LIMITS = {1: 2e-4, 2: 2e-6}
"""Largest error of streamed speech against one window, for each look-ahead in blocks."""
STREAM_CODES = 125
STREAM_CHUNKS = (1, 2, 3, 4, 5, 6, 10)


@torch.inference_mode()
def streamed_errors(geometry: str, ahead: int) -> tuple[float, float]:
    """Streamed speech against speech in one window, on the same noise, at its worst over sizes of chunks.

    Relative RMS of the log-mel, and largest error of a sample.
    """
    omni = Omni.load(tiny(geometry), dtype="float32", progress=False)
    vocoder = omni.model.token2wav
    assert vocoder
    voice = vocoder.prepare(omni.voices[VOICE])
    codes = torch.randint(0, 8192, (STREAM_CODES,), generator=torch.Generator().manual_seed(SEED)).tolist()

    def speak(chunks: ChunkPolicy) -> tuple[Tensor, Tensor]:
        state = vocoder.start(voice, seed=SEED, chunks=chunks)
        mels, waves = [], []
        for i in range(STREAM_CODES + 1):
            vocoder.push(state, (codes[i],) if i < STREAM_CODES else None)
            while vocoder.due(state):
                mels += vocoder.mels([state])
                waves += vocoder.waves([state], mels[-1:])
        return torch.cat(mels), torch.cat(waves)

    mel, wave = speak(WHOLE)
    worst = [0.0, 0.0]
    for size in STREAM_CHUNKS:
        mel_in_pieces, wave_in_pieces = speak(ChunkPolicy(first=size, growth=0, largest=size, ahead=ahead))
        errors = float((mel_in_pieces - mel).norm() / mel.norm()), _worst([wave_in_pieces], [wave])
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return worst[0], worst[1]


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
        errors["vision tower"] = _worst([torch.cat(a.vision)], [torch.cat(b.vision)]) / _size(b.vision)
    if a.audio:
        errors["audio tower"] = _worst([torch.cat(a.audio)], [torch.cat(b.audio)]) / _size(b.audio)
    return errors


def _size(rows: Sequence[Tensor]) -> float:
    """RMS of a tower's rows, at least 1: trained towers have larger rows than random ones, and so larger errors."""
    return max(1.0, float(torch.cat([r.flatten() for r in rows]).square().mean().sqrt()))


def _worst(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return float("inf")
    return max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)


def run_case(omni: Omni, ref: Any, messages: Sequence[list[Message]], *, sampled: bool = False) -> Errors:
    """Both chains on one case."""
    prompts = [omni.runtime.request(m, VOICE, Options()).prompt for m in messages]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", action="store_true", help="print every case too")
    parser.add_argument("--geometry", nargs="*", default=["7b-like", "3b-like", "odd", "mixed", "bundled"])
    parser.add_argument("--text", nargs="*", default=list(VARIANTS), help="models of text alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    passed = [_stages(args.geometry, console, cases=args.cases), _text(args.text, console)]
    ratios = {g: bfloat16_ratios(g) for g in ("mixed", "7b-like")}
    table = _table("our error in bfloat16 over transformers' own, on the same ids", "stage", *ratios, "limit")
    for stage in next(iter(ratios.values())):
        row = [ratios[g][stage] for g in ratios]
        passed.append(all(r <= BF16_LIMIT for r in row))
        table.add_row(stage, *(f"{r:.2f}" for r in row), f"{BF16_LIMIT:.2f}")
    console.print(table)
    columns = [f"{g} {what}" for g in ratios for what in ("mel", "wave")]
    title = "streamed speech against one window, same noise, chunks of 1 to 10 blocks"
    table = _table(title, "look-ahead", *columns, "limit of mel")
    for ahead, limit in STREAM_LIMITS.items():
        pairs = [streamed_errors(g, ahead) for g in ratios]
        passed.append(all(mel <= limit for mel, _ in pairs))
        cells = [cell for mel, wave in pairs for cell in (_cell(mel, limit), f"{wave:.1e}")]
        table.add_row(f"{ahead} block{'s' * (ahead > 1)}", *cells, f"{limit:.0e}")
    console.print(table)
    console.print("every row is within its limit" if all(passed) else "[bold red]a row misses its limit")
    return 0 if all(passed) else 1


def _stages(geometries: Sequence[str], console: Console, *, cases: bool) -> bool:
    """Print the errors of models that see, hear and speak; whether all are within their limits."""
    watched = track(geometries, "parity", console=Console(stderr=True), transient=True)
    found = {g: float32_errors(g) for g in watched}
    if not found:
        return True
    title = f"largest error over {len(next(iter(found.values())))} cases, float32"
    worst = {
        stage: [max(errors[stage] for errors in of_cases.values() if stage in errors) for of_cases in found.values()]
        for stage in LIMITS
    }
    passed = _print(title, list(found), worst, LIMITS, console)
    for geometry, of_cases in found.items() if cases else ():
        for case, errors in of_cases.items():
            console.print(geometry, case, {k: f"{v:.1e}" for k, v in errors.items()}, soft_wrap=True, highlight=False)
    return passed


def _text(variants: Sequence[str], console: Console) -> bool:
    """The same for models of text alone."""
    found = [text.errors(variant) for variant in variants]
    worst = {name: [errors[name] for errors in found] for name in text.LIMITS}
    return _print(f"models of text alone, {len(text.CHATS)} chats, float32", variants, worst, text.LIMITS, console)


def _print(
    title: str, columns: Sequence[str], worst: Mapping[str, list[float]], limits: Mapping[str, float], console: Console
) -> bool:
    """A row of errors for each limit; whether all are within."""
    table = _table(title, "stage", *columns, "limit")
    for name, limit in limits.items():
        table.add_row(name, *(_cell(e, limit) for e in worst[name]), "identical" if limit == 0 else f"{limit:.0e}")
    console.print(table)
    return all(e <= limits[name] for name, errors in worst.items() for e in errors)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cell(error: float, limit: float) -> str:
    text = ("identical" if error == 0 else "differs") if limit == 0 else f"{error:.1e}"
    return text if error <= limit else f"[bold red]{text}"


if __name__ == "__main__":
    sys.exit(main())
