"""How fast the thinker's decoder is on this CPU in each kind of weights, against transformers' layers in bfloat16.

    python -m demos.bench_decode [--check] [--threads 2] [--layers 4] [--rounds 9]

Layers of the published 3B thinker's shape with random normal weights, the same for both, taken by turns in one process
(theirs, ours, ours, theirs); a figure is the median of the rounds' ratios. Achieved reading is told against what a plain sum
reads in the same run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from omni.cache import CachedSequence
from omni.config import DecoderConfig
from omni.decoder import STACKS, Decoder
from omni.engine.batch import Lane
from omni.quantised import PackedLinear, pack_linears

KINDS = {"bfloat16": "auto", "int8": "int8", "int4": "int4"}
MARKS = {
    ("decode", "bfloat16"): 1.2,
    ("decode", "int8"): 1.8,
    ("decode", "int4"): 2.6,
    ("prefill", "int8"): 1.3,
}
CONTEXT = 256
PROMPT = 256
Run = Callable[[], object]


def shape(layers: int) -> DecoderConfig:
    """So many layers of Qwen2.5-Omni-3B's thinker."""
    return DecoderConfig(2048, 11008, layers, 16, 2, 128, 1e-6, 1_000_000.0, (16, 24, 24), 32768)


@dataclass(frozen=True)
class Figure:
    """Attributes:
    ratios: transformers' time by ours, one a round.
    ours, theirs: the best seconds.
    moved: bytes of weights that a run of ours reads.
    """

    work: str
    kind: str
    ratios: Sequence[float]
    ours: float
    theirs: float
    moved: int

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def mark(self) -> float | None:
        return MARKS.get((self.work, self.kind))

    @property
    def missed(self) -> str | None:
        if self.mark is None or self.ratio >= self.mark:
            return None
        return f"{self.work} in {self.kind} is {self.ratio:.2f} times as fast as transformers, and should be {self.mark}"


class Reference:
    """transformers' decoder layers in bfloat16."""

    def __init__(self, config: DecoderConfig) -> None:
        self.model: Any = Qwen2_5OmniThinkerTextModel(
            Qwen2_5OmniTextConfig(
                vocab_size=8,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                rms_norm_eps=config.rms_norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta, "mrope_section": [16, 24, 24]},
                attn_implementation="sdpa",
            )
        ).eval()
        for parameter in self.model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.02)
        self.model.bfloat16()

    def prefill(self, rows: Tensor) -> Tensor:
        out: Tensor = self.model(inputs_embeds=rows[None], position_ids=_positions(0, len(rows))[:, None], use_cache=True)[0]
        return out[0]

    def stepper(self, rows: Tensor, row: Tensor) -> Run:
        """A step of one row behind the rows; the context stays the same."""
        cache = DynamicCache()
        at = _positions(0, len(rows))[:, None]
        self.model(inputs_embeds=rows[None], position_ids=at, past_key_values=cache, use_cache=True)
        here = _positions(len(rows), 1)[:, None]

        def step() -> Tensor:
            out: Tensor = self.model(inputs_embeds=row[None], position_ids=here, past_key_values=cache, use_cache=True)[0]
            cache.crop(-1)
            return out[0]

        return step


class Ours:
    """Our decoder with the reference's weights, in one kind."""

    def __init__(self, config: DecoderConfig, reference: Reference, kind: str) -> None:
        self.decoder = Decoder(config).bfloat16().eval().requires_grad_(False)
        held = reference.model.state_dict()
        for name, parameter in self.decoder.named_parameters():
            module, _, leaf = name.rpartition(".")
            ours = next((ours for ours in STACKS if module.endswith(ours)), "")
            keys = [module.removesuffix(ours) + theirs for theirs in STACKS[ours]] if ours else [module]
            parameter.copy_(torch.cat([held[f"{key}.{leaf}"] for key in keys]))
        pack_linears(self.decoder, KINDS[kind])
        self.lane = Lane(self.decoder, 4096)

    @property
    def nbytes(self) -> int:
        return sum(module.nbytes for module in self.decoder.modules() if isinstance(module, PackedLinear))

    def prefill(self, rows: Tensor) -> Tensor:
        sequence = CachedSequence()
        out = self.lane.advance([sequence], [rows], [_positions(0, len(rows))])[0]
        self.lane.pool.release(sequence)
        return out

    def stepper(self, rows: Tensor, row: Tensor) -> Run:
        sequence = CachedSequence()
        self.lane.advance([sequence], [rows], [_positions(0, len(rows))])
        here = _positions(len(rows), 1)

        def step() -> Tensor:
            out = self.lane.advance([sequence], [row], [here])[0]
            sequence.length = len(rows)  # the row's place is written again by the next step
            return out

        return step


def _positions(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).expand(3, -1)


def compare(theirs: Run, ours: Run, rounds: int, repeats: int = 1) -> tuple[list[float], float, float]:
    """Ratios of their time to ours, one a round (theirs, ours, ours, theirs), and the best seconds of ours and theirs."""
    for run in (theirs, ours):
        run()
    ratios, best = [], {theirs: float("inf"), ours: float("inf")}
    for _ in range(rounds):
        taken = {theirs: 0.0, ours: 0.0}
        for run in (theirs, ours, ours, theirs):
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                seconds = time.perf_counter() - start
                taken[run] += seconds
                best[run] = min(best[run], seconds)
        ratios.append(taken[theirs] / taken[ours])
    return ratios, best[ours], best[theirs]


def measure(layers: int = 4, rounds: int = 9) -> Iterator[Figure]:
    """Decoding a token behind CONTEXT others and prefilling PROMPT tokens, in every kind of weights."""
    config = shape(layers)
    reference = Reference(config)
    rows, row = (torch.randn(count, config.hidden_size).bfloat16() for count in (max(CONTEXT, PROMPT), 1))
    for kind in KINDS:
        ours = Ours(config, reference, kind)
        step, their_step = ours.stepper(rows[:CONTEXT], row), reference.stepper(rows[:CONTEXT], row)
        yield Figure("decode", kind, *compare(their_step, step, rounds, repeats=8), ours.nbytes)
        prompt = rows[:PROMPT]
        pair = compare(lambda p=prompt: reference.prefill(p), lambda p=prompt, o=ours: o.prefill(p), rounds)  # type: ignore[misc]
        yield Figure("prefill", kind, *pair, ours.nbytes)


def read_ceiling(nbytes: int = 1 << 28, rounds: int = 9) -> float:
    """Bytes a second that a plain sum reads, at best."""
    held = torch.ones(nbytes // 8, dtype=torch.int64)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        held.sum()
        best = min(best, time.perf_counter() - start)
    return nbytes / best


def show(figures: Sequence[Figure], ceiling: float, console: Console) -> None:
    table = Table(title=f"reading at best {ceiling / 1e9:.1f} GB/s, {torch.get_num_threads()} threads", title_justify="left")
    for name in ("work", "weights", "ours, ms", "theirs, ms", "ratio", "of rounds", "mark", "GB/s", "of reading"):
        table.add_column(name, justify="left" if name in ("work", "weights") else "right")
    for each in figures:
        speed = each.moved / each.ours
        read = (f"{speed / 1e9:.1f}", f"{speed / ceiling:.0%}") if each.work == "decode" else ("", "")
        table.add_row(
            each.work, each.kind, f"{1e3 * each.ours:.2f}", f"{1e3 * each.theirs:.2f}", f"{each.ratio:.2f}",
            f"{min(each.ratios):.2f} to {max(each.ratios):.2f}", f"{each.mark or ''}", *read,
        )  # fmt: skip
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demos.bench_decode", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail where a mark is missed")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own number where it is not given")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        ceiling = read_ceiling()
        figures = list(measure(asked.layers, asked.rounds))
        ceiling = max(ceiling, read_ceiling())
    show(figures, ceiling, Console(highlight=False, width=110))
    missed = [figure.missed for figure in figures if figure.missed]
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    if missed and asked.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
