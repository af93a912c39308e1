"""BigVGAN beside transformers', on one set of random weights in the published shapes.

    python -m demos.bench_vocoder [--frames 100] [--threads 2]

Prints the fastest of several turns of both, their ratio, and how far the waves are apart. Ends with status 1 when ours is
not 2.5 times as fast, or the waves differ by more than 1e-5. Needs transformers.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniBigVGANConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

from omni.kernels.native import build
from omni.talker.bigvgan import BigVGAN, Snake
from omni.talker.config import BigVGANConfig

PUBLISHED = BigVGANConfig(
    mel_dim=80,
    upsample_initial_channel=1536,
    upsample_rates=(5, 3, 2, 2, 2, 2),
    upsample_kernel_sizes=(11, 7, 4, 4, 4, 4),
    resblock_kernel_sizes=(3, 7, 11),
    resblock_dilation_sizes=((1, 3, 5),) * 3,
)
LEAST = 2.5
FARTHEST = 1e-5


@dataclass(frozen=True)
class Outcome:
    """Seconds for one run of each, and the largest difference between the waves, whose peak is `peak`."""

    ours: float
    theirs: float
    apart: float
    peak: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    @property
    def passed(self) -> bool:
        return self.ratio >= LEAST and self.apart <= FARTHEST


def fill(net: nn.Module) -> None:
    """Random weights under which signals keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            if name != "weight":
                scale = 0.2 if isinstance(module, Snake) else 0.02
            elif isinstance(module, nn.ConvTranspose1d):
                scale = (p.shape[0] * p.shape[2] / module.stride[0]) ** -0.5
            else:
                scale = (0.35 if p.shape[0] == p.shape[1] else 0.4) / math.sqrt(p[0].numel())
            p.data.copy_(scale * torch.randn(p.shape, generator=generator))


def seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def compare(num_frames: int = 100, rounds: int = 4, config: BigVGANConfig = PUBLISHED) -> Outcome:
    """Both on the same frames, in turns (ours, theirs, theirs, ours) after one run each."""
    shape = {name: getattr(config, name) for name in BigVGANConfig.__dataclass_fields__}
    listed = {name: [*map(list, v)] if name == "resblock_dilation_sizes" else v for name, v in shape.items()}
    with torch.inference_mode(False):
        ours = BigVGAN(config).eval().requires_grad_(False)
        fill(ours)
        theirs: nn.Module = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniBigVGANConfig(**listed))
        theirs.eval().requires_grad_(False)
        theirs.load_state_dict(ours.state_dict())
    mel = -5 + 3 * torch.randn(1, num_frames, config.mel_dim, generator=torch.Generator().manual_seed(1))
    runs: tuple[Callable[[], Tensor], ...] = (lambda: ours(mel)[0]), (lambda: theirs(mel.transpose(1, 2)))
    waves = [run() for run in runs]
    took: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for which in (0, 1, 1, 0):
            took[which].append(seconds(runs[which]))
    return Outcome(min(took[0]), min(took[1]), float((waves[0] - waves[1]).abs().max()), float(waves[1].abs().max()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="mel frames, 100 a second")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"C twins: {build.status()}")
    got = compare(args.frames, args.rounds)
    audio = args.frames / 100
    print(f"{audio:g} s of sound, float32, {args.threads} threads")
    print(f"ours          {got.ours * 1e3:8.0f} ms, real-time factor {got.ours / audio:.2f}")
    print(f"transformers  {got.theirs * 1e3:8.0f} ms, real-time factor {got.theirs / audio:.2f}")
    print(f"ratio         {got.ratio:8.2f}    at least {LEAST}")
    print(f"difference    {got.apart:8.1e}    at most {FARTHEST:g}, of a peak of {got.peak:.2f}")
    return int(not got.passed)


if __name__ == "__main__":
    sys.exit(main())
