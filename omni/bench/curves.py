"""How time grows: with context, sessions, the size of pictures, the length of speech, and the evaluations that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from omni.bench import plot
from omni.bench.case import F32, Case, Setting, normal
from omni.bench.models import both
from omni.bench.report import Report, Row
from omni.bench.stages import describe, notes_on
from omni.bench.think import step
from omni.bench.timing import Timer
from omni.bench.towers import sees
from omni.bench.voice import evaluation, narrow, packed
from omni.engine.block_manager import CachedSequence
from omni.engine.runner import ModelRunner
from omni.errors import OptionError
from omni.talker.flow import Solver


@dataclass(frozen=True)
class Points:
    """Where each curve is measured.

    Attributes:
        context: tokens in the cache.
        sessions: that take a step together.
        image: side of a picture in pixels.
        speech: seconds that are made in one window.
        points: of the time grid; a window takes four evaluations for each interval between them.
    """

    context: Sequence[int] = (128, 512, 2048, 8192)
    sessions: Sequence[int] = (1, 2, 4, 8, 16)
    image: Sequence[int] = (112, 224, 448, 672)
    speech: Sequence[float] = (0.5, 1, 2, 4, 8)
    points: Sequence[int] = (10, 6, 4, 2)


@dataclass(frozen=True)
class Curve:
    """Attributes:
    units: of x, and of y.
    points: x and what is timed there.
    """

    title: str
    units: tuple[str, str]
    points: Callable[[Setting, Points], Iterator[tuple[float, Case]]]


def measure(
    setting: Setting, timer: Timer, points: Points, only: Sequence[str] = (), notes: Console | None = None
) -> Report:
    """Rows named after their curves, x in `Row.x`."""
    if unknown := [name for name in only if name not in CURVES]:
        raise OptionError(f"{unknown[0]!r} is no curve; give some of {', '.join(CURVES)}")
    rows = []
    with torch.inference_mode():
        for name, curve in CURVES.items():
            for x, case in curve.points(setting, points) if not only or name in only else ():
                row = Row.of(name, case.setting, timer.pairs(case.ours, case.theirs))
                rows.append(replace(row, x=x))
                if notes:
                    notes.print(f"{name} at {x:g}: {row.ours:.4g} ms", style="dim", highlight=False)
    return Report("curves", setting.device, describe(setting, timer, only), rows, None, list(notes_on(setting)))


def draw(rows: Sequence[Row], path: Path) -> None:
    """A panel for each curve that has rows."""
    panels = []
    for name, curve in CURVES.items():
        some = sorted((row for row in rows if row.name == name and row.x is not None), key=lambda row: row.x or 0)
        if some:
            x = [row.x or 0 for row in some]
            panels.append(plot.Panel(curve.title, *curve.units, x, [r.ours for r in some], [r.theirs for r in some]))
    plot.draw(panels, path)


def _context(s: Setting, points: Points) -> Iterator[tuple[float, Case]]:
    pair = both(s.shape, "thinker.decoder.", dtype=s.dtype, device=s.device, depth=s.sizes.depth)
    ours, ref = pair.ours.thinker.decoder, pair.their_thinker.model if pair.theirs else None
    for context in points.context:
        one = step(ModelRunner(ours, context + 256), ref, context, ours.config.hidden_size, s)
        setting = f"{len(ours.layers)} layers, a token at context {context}"
        yield context, Case("", setting, one.ours, one.theirs if ref is not None else None, s.dtype)


def _sessions(s: Setting, points: Points) -> Iterator[tuple[float, Case]]:
    """Ours alone: `generate` has one batch that begins and ends together."""
    pair = both(s.shape, "thinker.decoder.", dtype=s.dtype, device=s.device, depth=s.sizes.depth)
    decoder = pair.ours.thinker.decoder
    for sessions in points.sessions:
        runner = ModelRunner(decoder, sessions * (s.sizes.context + 256))
        held = [CachedSequence() for _ in range(sessions)]
        runner.cache.table(held, [s.sizes.context] * sessions)
        runner.cache.commit(held, [s.sizes.context] * sessions)
        runner.cache.store.keys.normal_()
        runner.cache.store.values.normal_()
        rows = list(normal(sessions, 1, decoder.config.hidden_size, s=s))
        at = [torch.full((3, 1), s.sizes.context, device=s.device)] * sessions

        def run(
            runner: ModelRunner = runner, held: list[CachedSequence] = held, rows: list[Tensor] = rows, at: list[Tensor] = at
        ) -> None:
            runner.advance(held, rows, at)
            for sequence in held:
                runner.cache.blocks.cut(sequence, s.sizes.context)

        setting = f"{len(decoder.layers)} layers, a token each of {sessions} at context {s.sizes.context}"
        yield sessions, Case("", setting, run, None, s.dtype)


def _image(s: Setting, points: Points) -> Iterator[tuple[float, Case]]:
    if s.shape.config.thinker.vision is None:
        return
    pair = both(s.shape, "thinker.visual.", dtype=s.dtype, device=s.device, depth=s.sizes.depth)
    for side in points.image:
        yield side, sees(pair, side, s)


def _speech(s: Setting, points: Points) -> Iterator[tuple[float, Case]]:
    if s.shape.config.dit is None:
        return
    pair = both(s.shape, "token2wav.code2wav_dit_model.", dtype=F32, device=s.device, depth=min(4, s.sizes.depth))
    body = packed(pair)
    for seconds in points.speech:
        yield seconds, evaluation(pair, round(100 * seconds), s, body)


def _evaluations(s: Setting, points: Points) -> Iterator[tuple[float, Case]]:
    """Ours alone, a window of frames; fewer points are another result, and not measured here for their quality."""
    if s.shape.config.dit is None:
        return
    pair = both(narrow(s.shape), "token2wav.code2wav_dit_model.", dtype=F32, device=s.device, depth=min(4, s.sizes.depth))
    assert pair.ours.token2wav
    dit = pair.ours.token2wav.code2wav_dit_model
    config = dit.config
    codes = torch.arange(s.sizes.frames // config.repeats, device=s.device) % config.num_codes
    noise = torch.randn(len(codes) * config.repeats, config.mel_dim, device=s.device)
    ref_mel, cond = torch.randn(300, config.mel_dim, device=s.device), torch.randn(config.voice_dim, device=s.device)
    voices = dit.voice(ref_mel, cond)[None]
    for num in sorted(points.points):
        schedule = dit.schedule(Solver(num_points=num))
        count = schedule.solver.num_evaluations
        setting = f"{len(dit.transformer_blocks)} layers, {len(noise)} frames, {count} evaluations"
        run = partial(dit.sample, codes, noise, voices, [len(codes)], schedule)
        yield count, Case("", setting, run, None, F32)


CURVES: Mapping[str, Curve] = {
    "context": Curve("A token of the thinker", ("tokens in the cache", "ms"), _context),
    "sessions": Curve("A token for each of several sessions", ("sessions", "ms"), _sessions),
    "image": Curve("A picture", ("side in pixels", "ms"), _image),
    "speech": Curve("An evaluation of the flow-matching transformer", ("seconds of speech", "ms"), _speech),
    "evaluations": Curve("A window of log-mel", ("evaluations", "ms"), _evaluations),
}
