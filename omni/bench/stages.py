"""Every stage of the model against transformers', on the same weights in the same process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from omni.bench import baseline
from omni.bench import peer as llama_cpp
from omni.bench.case import F32, Case, Setting, name_of
from omni.bench.marks import MARKS, mark
from omni.bench.models import Both, both
from omni.bench.report import Report, Row, hardware
from omni.bench.think import prefill, talker, thinker
from omni.bench.timing import Ceilings, Run, Timer, measure_ceilings
from omni.bench.towers import audio, hears, vision
from omni.bench.voice import flow, narrow, speaker, wave
from omni.errors import OptionError
from omni.talker.flow import Solver


def measure(
    setting: Setting,
    timer: Timer,
    only: Sequence[str] = (),
    notes: Console | None = None,
    seconds: float = 0.3,
    peer: str | None = None,
) -> Report:
    """Rows of the stages that are named, of all without names; weights live only while their stage is timed.

    seconds: for each ceiling.
    peer: a Python that has llama-cpp-python; then its stages are timed against llama.cpp, and named by its weights.
    """
    stages, meanings = STAGES, dict[str, str]()
    if peer:
        stages, meanings = llama_cpp.stages(peer), {"theirs": f"theirs: llama-cpp-python {llama_cpp.version(peer)}"}
    if unknown := [name for name in only if name not in stages]:
        raise OptionError(f"{unknown[0]!r} is no stage; give some of {', '.join(stages)}")
    with torch.inference_mode():
        ceilings = measure_ceilings(timer, seconds=seconds)
        rows = []
        for name, build in stages.items():
            for case in build(setting) if not only or name in only else ():
                rows.append(time_case(case, timer, ceilings, setting))
                if notes:
                    times = f" {rows[-1].ratio:.2f} times" if rows[-1].ratio else ""
                    notes.print(f"{case.name}: {rows[-1].ours:.4g} ms{times}", style="dim", highlight=False)
    told = [] if peer else list(notes_on(setting))
    return Report("stages", setting.device, describe(setting, timer, only), rows, ceilings, told, meanings)


def time_case(case: Case, timer: Timer, ceilings: Ceilings, setting: Setting) -> Row:
    outputs: list[Any] = []
    runs = [case.ours, case.theirs] if case.theirs else [case.ours]
    took = [timer.once(partial(_keep, outputs, run)) for run in runs]
    error = _error(*outputs) if case.theirs and case.compare else None
    return Row.of(
        case.name,
        case.setting,
        timer.pairs(case.ours, case.theirs, took=(took[0], took[-1])),
        bound=ceilings.bound(case.moved, case.operations, case.dtype) if case.moved or case.operations else None,
        moved=case.moved,
        their_moved=case.their_moved,
        operations=case.operations,
        error=error,
        allowed=case.allowed if error is not None else None,
        mark=mark(hardware(setting.device), setting.shape.name, case.name),
    )


def _keep(outputs: list[Any], run: Run) -> None:
    outputs.append(run())


def _error(ours: Any, theirs: Any) -> float:
    """RMS of the difference, over the RMS of theirs."""
    a, b = (x.float().cpu().squeeze() for x in (ours, theirs))
    assert a.shape == b.shape, f"{tuple(a.shape)} and {tuple(b.shape)} are to be the same"
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


def describe(setting: Setting, timer: Timer, only: Sequence[str]) -> dict[str, Any]:
    """The settings, as a report holds them."""
    return {
        "shape": setting.shape.name,
        "weights": str(setting.shape.folder) if setting.shape.folder else "random",
        "dtype": name_of(setting.dtype),
        "only": list(only),
        "rounds": [timer.least, timer.most],
        "budget": timer.budget,
        **asdict(setting.sizes),
    }


def notes_on(setting: Setting) -> Iterator[str]:
    """What a reader of the rows should know."""
    if baseline.INSTALLED:
        yield f"transformers {baseline.version()}, SDPA, on the same weights, in one process"
    else:
        yield "transformers is not installed, so its column is left out: pip install transformers"
    key = hardware(setting.device), setting.shape.name
    if key not in MARKS:
        known = ", ".join(f"{shape} on {machine}" for machine, shape in MARKS)
        yield f"no marks are set for {setting.shape.name} on {key[0]}; they are for {known}"


def growth(s: Setting) -> Iterator[Case]:
    """What three times the length costs: of sound that is heard, and of sound that is made; ours alone."""
    if s.shape.config.thinker.audio:
        yield _hearing_longer(s, s.sizes.sound)
    if s.shape.config.dit:
        yield _speaking_longer(s, s.sizes.sound)


def _hearing_longer(s: Setting, short: float) -> Case:
    pair = both(s.shape, "thinker.audio_tower.", dtype=s.dtype, device=s.device, depth=min(4, s.sizes.depth))
    once, thrice = (hears(Both(pair.ours, None), round(100 * n * short), s) for n in (1, 3))
    return replace(
        once,
        name="audio tower, 3 x as long",
        setting=f"{once.setting} and {3 * short:g} s",
        theirs=thrice.ours,
        compare=False,
    )


def _speaking_longer(s: Setting, short: float) -> Case:
    dit, bigvgan = "token2wav.code2wav_dit_model.", "token2wav.code2wav_bigvgan_model."
    vocoder = both(narrow(s.shape), dit, bigvgan, dtype=F32, device=s.device, depth=3).ours.token2wav
    assert vocoder
    speak = speaker(vocoder, Solver(num_points=2), s)
    return Case(
        "voice, 3 x as long",
        f"float32, {len(vocoder.code2wav_dit_model.transformer_blocks)} layers, 4 evaluations, a BigVGAN of "
        f"{vocoder.code2wav_bigvgan_model.config.upsample_initial_channel} channels, {short:g} s and {3 * short:g} s",
        lambda: speak(short),
        lambda: speak(3 * short),
        F32,
        compare=False,
    )


STAGES: Mapping[str, Callable[[Setting], Iterator[Case]]] = {
    "thinker": thinker,
    "prefill": prefill,
    "talker": talker,
    "audio": audio,
    "vision": vision,
    "flow": flow,
    "wave": wave,
    "growth": growth,
}
