"""Our flow-matching transformer against transformers', from codes and noise to log-mel frames, at the published sizes.

    python -m demos.bench_dit --check

Both have the same random weights and the same noise, take the same number of evaluations, and run in turns in one process.
transformers' is float32; ours is float32, then with the products of its blocks in bfloat16. The column `products` is the
time of those products alone, measured in the same run: a program can hardly be faster. A mark that transformers' time over
that bound does not reach is beyond the products; ours must then come within SHARE of the bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniToken2WavConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavDiTModel

from omni.bench.timing import Timer
from omni.talker.config import DiTConfig, EcapaConfig
from omni.talker.dit import DiT
from omni.talker.flow import Solver

MARKS = {("float32", 96): 2.5, ("bfloat16", 96): 5.0, ("bfloat16", 1000): 10.0}
"""How many times faster than transformers' float32, by dtype and frames."""
SHARE = 1.35
"""Times the bound, where a mark lies beyond it."""
MAX_ERROR = {"float32": 1e-4, "bfloat16": 0.2}
"""Largest difference of a log-mel value; random weights make values of a few units."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NOISE_FRAMES = 30000
"""transformers draws as many rows of noise, whatever it needs."""
REFERENCE_FRAMES = 300


@dataclass(frozen=True)
class Row:
    """Seconds of all evaluations; `ratios` of the rounds, and the largest error."""

    dtype: str
    frames: int
    ours: float
    theirs: float
    products: float
    ratio: float
    ratios: list[float]
    error: float

    @property
    def mark(self) -> float | None:
        return MARKS.get((self.dtype, self.frames))

    @property
    def verdict(self) -> str:
        if self.error > MAX_ERROR[self.dtype]:
            return f"errs by more than {MAX_ERROR[self.dtype]}"
        if self.mark is None or self.ratio >= self.mark:
            return "" if self.mark is None else "reached"
        if self.theirs / self.products < self.mark and self.ours <= SHARE * self.products:
            return "beyond the products"
        return "missed"


def models(num_layers: int) -> tuple[DiT, Any]:
    """Ours and transformers', sharing weights that keep activations at their size from layer to layer."""
    config = DiTConfig(
        hidden_size=1024, num_layers=num_layers, num_heads=16, head_dim=64, ff_mult=2, code_dim=512, num_codes=8193,
        repeats=2, mel_dim=80, voice_dim=192, block_size=24, look_ahead_layers=(10,), look_backward_layers=(0, 20),
        ecapa=EcapaConfig(
            mel_dim=80, channels=(256, 256, 256, 256, 768), kernel_sizes=(5, 3, 3, 3, 1), dilations=(1, 2, 3, 4, 1),
            attention_channels=64, res2net_scale=2, se_channels=64, out_dim=128,
        ),
    )  # fmt: skip
    ecapa = config.ecapa
    theirs_config = Qwen2_5OmniToken2WavConfig(
        dit_config={
            "hidden_size": 1024, "num_hidden_layers": num_layers, "num_attention_heads": 16, "head_dim": 64, "ff_mult": 2,
            "emb_dim": 512, "num_embeds": 8193, "repeats": 2, "mel_dim": 80, "enc_emb_dim": 192, "block_size": 24,
            "look_ahead_layers": [10], "look_backward_layers": [0, 20], "enc_channels": list(ecapa.channels),
            "enc_kernel_sizes": list(ecapa.kernel_sizes), "enc_dilations": list(ecapa.dilations),
            "enc_attention_channels": 64, "enc_res2net_scale": 2, "enc_se_channels": 64, "enc_dim": 128,
        },
    ).dit_config  # fmt: skip
    torch.manual_seed(0)
    theirs = Qwen2_5OmniToken2WavDiTModel(theirs_config).float().eval().requires_grad_(False)
    for p in theirs.parameters():
        p.normal_(0, 0.1 if p.ndim == 1 else p[0].numel() ** -0.5)
    with torch.device("meta"):
        ours = DiT(config).eval().requires_grad_(False)
    weights = {k: v for k, v in theirs.state_dict().items() if k != "rotary_embed.inv_freq"}
    ours.load_state_dict(weights, assign=True)
    return ours, theirs


def products(dit: DiT, num_rows: int) -> Callable[[], None]:
    """The products of all blocks, and nothing else."""
    parts = dict(dit.transformer_blocks[0].named_modules())
    layers = [part for name, part in parts.items() if isinstance(part, nn.Linear) and not name.startswith("attn_norm")]
    rows = [torch.randn(num_rows, layer.in_features).to(layer.weight.dtype) for layer in layers]

    def run() -> None:
        for _ in dit.transformer_blocks:
            for layer, x in zip(layers, rows, strict=True):
                layer(x)

    return run


def row(dit: DiT, ref: Any, frames: int, dtype: str, solver: Solver, timer: Timer) -> Row:
    config = dit.config
    codes = torch.arange(frames // config.repeats) * 37 % config.num_codes
    cond, mel = torch.randn(config.voice_dim), torch.randn(REFERENCE_FRAMES, config.mel_dim) - 5
    voices, schedule = dit.voice(mel, cond)[None], dit.schedule(solver)  # once for a voice, as in a conversation
    torch.manual_seed(1)
    noise = torch.randn(1, NOISE_FRAMES, config.mel_dim)[0, :frames]

    def ours() -> Tensor:
        return dit.sample(codes, noise, voices, [len(codes)], schedule)

    def theirs() -> Tensor:
        torch.manual_seed(1)
        made: Tensor = ref.sample(cond[None], mel[None], codes[None], num_steps=solver.num_points)
        return made[0].T

    error = float((ours() - theirs()).abs().max())
    pairs = timer.pairs(ours, theirs)
    floor = solver.num_evaluations * timer.best(products(dit, 2 * frames), 4.0)
    best_of_theirs = min(x for pair in pairs.b for x in pair)
    return Row(dtype, frames, pairs.a_best, best_of_theirs, floor, pairs.ratio, pairs.ratios, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a mark is missed")
    parser.add_argument("--layers", type=int, default=22, help="of both; 22 are published")
    parser.add_argument("--points", type=int, default=2, help="of the time grid; 10 are published, 2 take 4 evaluations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, nargs="*", default=[96, 1000])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # the processor time of one thread leaves out what other programs of the machine take
    clock = time.process_time if given.threads == 1 else time.perf_counter
    solver, timer = Solver(given.points), Timer(budget=0.0, least=given.rounds, most=given.rounds, clock=clock)
    print(
        f"{given.layers} layers, {solver.num_evaluations} evaluations, {given.threads} threads\n\n"
        f"{'dtype':10}{'frames':>7}{'ours':>9}{'theirs':>9}{'products':>10}{'ratio':>7}{'range':>12}"
        f"{'bound':>7}{'mark':>6}{'error':>10}"
    )
    failed = False
    with torch.inference_mode():
        dit, ref = models(given.layers)
        for dtype, kept in DTYPES.items():
            for name, part in dit.transformer_blocks.named_modules():
                if name.endswith((".attn", ".ff")):
                    part.to(kept)
            for frames in given.frames:
                r = row(dit, ref, frames, dtype, solver, timer)
                spread = f"{min(r.ratios):.2f}-{max(r.ratios):.2f}"
                print(
                    f"{r.dtype:10}{r.frames:7}{r.ours:9.3f}{r.theirs:9.3f}{r.products:10.3f}{r.ratio:7.2f}{spread:>12}"
                    f"{r.theirs / r.products:7.2f}{r.mark or '':>6}{r.error:10.2g}  {r.verdict}",
                    flush=True,
                )
                failed |= r.verdict not in ("", "reached", "beyond the products")
    print("\nseconds, the best of all readings; ratio: median of the rounds, whose range stands beside it")
    if given.check and failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
