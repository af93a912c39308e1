"""Train the vocoder (BigVGAN) on the corpus.

    python -m demos.small_model.training.vocoder [--minutes N] [--channels C]

It goes on from where it was stopped, and ends when it has trained for N minutes in all. `vocoder.safetensors` holds the mean
of the weights over the last steps, under the published names, and is written every two minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from demos.small_model import BUILD
from demos.small_model.files import export, log
from demos.small_model.nets.vocoder_kernels import conv, snake
from demos.small_model.speech import corpus
from demos.small_model.speech.corpus import HOP, NUM_BINS, SAMPLE_RATE, Utterance, load, mel_frames
from demos.small_model.training.trainer import DEVICE, Trainer, run
from omni.encoders.mel import filter_bank
from omni.talker.bigvgan import Activation, AMPBlock, BigVGAN, loudness
from omni.talker.config import BigVGANConfig

EXPORT, STATE = BUILD / "vocoder.safetensors", BUILD / "vocoder.state.pt"
BATCH, FRAMES = 5, 32
RATE, WARM_UP, MAX_NORM, AVERAGE = 2e-3, 100, 3.0, 0.998
NOISE = 0.12
"""Nepers that the flow-matching model may err by; half of the batches are disturbed by up to as much."""
SCALES = ((256, 64, 24), (512, 128, 40), (1024, 240, 80), (2048, 512, 160))
"""Window, hop and mel bins of each loss."""
QUIET, QUIET_KEPT = 1e-4, 0.3
Pair = tuple[Activation, nn.Conv1d, Activation, nn.Conv1d]


def config(channels: int = 192) -> BigVGANConfig:
    return BigVGANConfig(
        mel_dim=NUM_BINS,
        upsample_initial_channel=channels,
        upsample_rates=(5, 3, 2, 2, 2, 2),
        upsample_kernel_sizes=(11, 7, 4, 4, 4, 4),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
    )


def blocks(net: BigVGAN) -> list[AMPBlock]:
    """One for each stage."""
    return cast("list[AMPBlock]", list(net.resblocks))


def speak(net: BigVGAN, mel: Tensor) -> Tensor:
    """What `net(mel)` gives before it is clamped, by kernels that are fast to train: `[B, 240 T]` from `[B, T, 80]`."""

    def act(module: Activation, x: Tensor) -> Tensor:
        return snake(x, module.act.alpha, module.act.beta, net.taps)

    x = net.conv_pre(loudness(mel).transpose(1, 2))
    for up, block in zip(net.ups, blocks(net), strict=True):
        x = up(x)
        pairs = zip(block.activations[::2], block.convs1, block.activations[1::2], block.convs2, strict=True)
        for act1, conv1, act2, conv2 in cast("Iterable[Pair]", pairs):
            x = x + conv(conv2, act(act2, conv(conv1, act(act1, x))))
    return conv(net.conv_post, act(net.activation_post, x)).squeeze(1)


@torch.no_grad()
def initialise(net: BigVGAN) -> None:
    """By fan-in; published defaults would begin with silence."""
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            # the stride of a transposed one leaves some of its taps to each sample
            fan_in = module.in_channels * module.kernel_size[0] / module.stride[0]
            module.weight.normal_(0, 1 / math.sqrt(fan_in))
            if module.bias is not None:
                module.bias.zero_()
    net.conv_pre.weight.mul_(2)
    net.conv_post.weight.mul_(0.05)
    for block in blocks(net):
        for second in block.convs2:
            second.get_parameter("weight").mul_(0.3)


class SpectralLoss(nn.Module):
    """L1 of log-mel amplitudes at four scales, and of log amplitudes and amplitudes at three."""

    def __init__(self) -> None:
        super().__init__()
        for size, _, bins in SCALES:
            self.register_buffer(f"window{size}", torch.hann_window(size))
            self.register_buffer(f"bank{size}", filter_bank(bins, size, SAMPLE_RATE, 12000.0))

    def amplitude(self, wave: Tensor, size: int, hop: int) -> Tensor:
        bins = torch.stft(wave, size, hop, size, self.get_buffer(f"window{size}"), return_complex=True)
        return (bins.real.square() + bins.imag.square() + 1e-8).sqrt()

    def forward(self, made: Tensor, real: Tensor) -> tuple[Tensor, float]:
        """The loss of waves `[B, S]`, and the L1 of their log-mel frames as the model knows them."""
        loss, frames = made.new_zeros(()), 0.0
        for size, hop, _ in SCALES:
            x, y = (self.amplitude(wave, size, hop) for wave in (made, real))
            bank = self.get_buffer(f"bank{size}")
            mels = ((bank @ x).clamp(min=3e-4).log() - (bank @ y).clamp(min=3e-4).log()).abs().mean()
            loss = loss + mels
            if size == 1024:
                frames = mels.item()
            if size > 256:
                loss = loss + 0.3 * ((x + 3e-3).log() - (y + 3e-3).log()).abs().mean()
                loss = loss + 0.3 * (x - y).norm() / (y.norm() + 1e-3)
        return loss, frames


def batch(utterances: list[Utterance], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Waves `[B, 240 T]` and their mels `[B, T, 80]`; of quiet ones only a few."""
    waves: list[Tensor] = []
    mels: list[Tensor] = []
    while len(waves) < BATCH:
        u = utterances[int(torch.randint(len(utterances), (1,), generator=generator))]
        start = int(torch.randint(len(u["mel"]) - FRAMES, (1,), generator=generator))
        wave = u["wav"][start * HOP : (start + FRAMES) * HOP].float()
        if wave.square().mean() < QUIET and torch.rand(1, generator=generator) > QUIET_KEPT:
            continue
        waves.append(wave)
        mels.append(u["mel"][start : start + FRAMES].float())
    return torch.stack(waves), torch.stack(mels)


@torch.no_grad()
def check(net: BigVGAN, held: list[Utterance]) -> float:
    """L1 between mels of speech and mels of the sound that was made of them, in nepers."""
    waves = [speak(net, u["mel"][None].float().to(DEVICE))[0].cpu() for u in held]
    errors = [(mel_frames(wave) - u["mel"].float()).abs().mean() for wave, u in zip(waves, held, strict=True)]
    return float(torch.stack(errors).mean())


def train(minutes: float, channels: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = BigVGAN(config(channels))
    initialise(net)
    trainer = Trainer(net, STATE, minutes, RATE, warm_up=WARM_UP, decay=0.0, betas=(0.8, 0.99), clip=MAX_NORM, keep=AVERAGE)
    generator = torch.Generator().manual_seed(trainer.step)
    num_shards = corpus.WITH_WAVE // corpus.SHARD
    shards = [path for voice in corpus.VOICES for path in corpus.shard_paths(voice)[:num_shards] if path.exists()]
    utterances = [u for path in shards for u in load(path) if len(u["mel"]) > FRAMES]
    held = load(corpus.HELD)[::10]
    loss_of, num_weights = SpectralLoss().to(DEVICE), sum(p.numel() for p in net.parameters())
    have = f"{num_weights} weights, {len(utterances)} utterances"
    print(f"{have}, at {trainer.elapsed:.1f} min, step {trainer.step}", flush=True)

    def heard() -> str:
        assert isinstance(trainer.average, BigVGAN)
        return f"held-out mel L1 {check(trainer.average, held):.3f}"

    def lesson() -> dict[str, float]:
        waves, mels = batch(utterances, generator)
        if trainer.step % 2:
            mels = mels + torch.randn(mels.shape, generator=generator) * NOISE * torch.rand(BATCH, 1, 1, generator=generator)
        loss, frames = loss_of(speak(net, mels.to(DEVICE)), waves.to(DEVICE))
        trainer.learn(loss)
        return {"loss": loss.item(), "mel": frames}

    run(trainer, "vocoder", lesson, check=heard, keep=lambda: export(trainer.average.state_dict(), EXPORT))
    log(f"vocoder {trainer.elapsed:.1f} min: {trainer.step} steps, {num_weights} weights, {heard()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="to train for in all")
    parser.add_argument("--channels", type=int, default=192, help="after the first convolution")
    options = parser.parse_args()
    train(options.minutes, options.channels)
