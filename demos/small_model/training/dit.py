"""Train the flow-matching model (DiT) that turns codes into log-mel frames.

    python -m demos.small_model.training.dit [--minutes N]

It goes on from where it was stopped, and ends when it has trained for N minutes in all. `dit.safetensors` holds the mean of
the weights over the last steps, under the published names, and is written every two minutes; `voices.pt` holds the voices.
"""

from __future__ import annotations

import argparse
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.files import export, log, save
from demos.small_model.speech.codec import CLUSTERS, COUNTER, PATH, STACK, cluster_of, code_ids, neighbours
from demos.small_model.speech.corpus import HELD, NUM_BINS, VOICES, Utterance, load, shard_paths
from demos.small_model.training.trainer import DEVICE, Trainer, run
from omni.kernels import rotary_table
from omni.talker.config import DiTConfig, EcapaConfig
from omni.talker.dit import EPS, Block, DiT
from omni.talker.flow import Solver

EXPORT, STATE, VOICES_FILE = BUILD / "dit.safetensors", BUILD / "dit.state.pt", BUILD / "voices.pt"
NUM_CODES = 8193
"""The published `num_embeds`."""
BATCH, FRAMES = 10, 144
RATE, AVERAGE = 2e-3, 0.999
WRONG, NEAR = 0.3, 8
"""Up to this share of an example's codes are others, of the NEAR nearest clusters, as a talker's are."""
UNCONDITIONAL = 0.12
"""Part of the examples without voice and codes, for guidance."""
REFERENCE_FRAMES, VOICE_DIM = 300, 192


def config(num_codes: int = NUM_CODES) -> DiTConfig:
    ecapa = EcapaConfig(
        mel_dim=NUM_BINS,
        channels=(32, 32, 32, 32, 96),
        kernel_sizes=(5, 3, 3, 3, 1),
        dilations=(1, 2, 3, 4, 1),
        attention_channels=8,
        res2net_scale=2,
        se_channels=8,
        out_dim=32,
    )
    return DiTConfig(
        hidden_size=128,
        num_layers=6,
        num_heads=4,
        head_dim=32,
        ff_mult=2,
        code_dim=64,
        num_codes=num_codes,
        repeats=STACK,
        mel_dim=NUM_BINS,
        voice_dim=VOICE_DIM,
        block_size=24,
        look_ahead_layers=(3,),
        look_backward_layers=(0, 4),
        ecapa=ecapa,
    )


def released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a row for each id, that of its cluster, instead of one for each cluster; other ids sound like none."""
    ids = torch.arange(NUM_CODES + 1)
    rows = torch.where((ids > 0) & (ids <= CLUSTERS * COUNTER), 1 + cluster_of(ids), 0)
    key = "text_embed.codec_embed.weight"
    return {**weights, key: weights[key][rows]}


def taken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a row for each cluster again, from `released` weights."""
    key = "text_embed.codec_embed.weight"
    first = torch.cat((torch.zeros(1, dtype=torch.int64), code_ids(torch.arange(CLUSTERS), torch.zeros(CLUSTERS))))
    return {**weights, key: weights[key][first]}


def blocks(net: DiT) -> list[Block]:
    return cast("list[Block]", list(net.transformer_blocks))


def heads(x: Tensor, num_heads: int) -> Tensor:
    """`[B, H, T, D]` from `[B, T, H D]`."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of the first head alone; x `[B, H, T, D]`, cos and sin `[T, D / 2]`."""
    a, b = x[:, :1, :, 0::2], x[:, :1, :, 1::2]
    first = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((first.to(x.dtype), x[:, 1:]), 1)


def attend(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Attention `[B, T, H D]` within blocks of x `[B, T, C]`, and to a neighbouring block where the layer has one.

    Products of whole blocks, because masked attention over all T takes a CPU three times as long backward.
    """
    attn, mask = block.attn, block.attn.mask
    size = mask.size
    q, k, v = (heads(to(x), attn.num_heads) for to in (attn.to_q, attn.to_k, attn.to_v))
    q, k = turn(q, cos, sin), turn(k, cos, sin)
    q, k, v = (y.unflatten(2, (-1, size)) for y in (q, k, v))  # [B, H, N, size, D]
    bias = None
    if mask.back or mask.ahead:
        # the block after the last one, and the one before the first, are the block itself, hidden
        N = q.shape[2]
        near = torch.arange(N, device=x.device) + (1 if mask.ahead else -1)
        hidden = (near < 0) | (near >= N)
        near = near.clamp(0, N - 1)
        k, v = (torch.cat((y, y[:, :, near]), 3) for y in (k, v))
        bias = torch.zeros(N, 1, 2 * size, device=x.device)
        bias[hidden, :, size:] = -torch.inf
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores.float() if bias is None else scores.float() + bias
    y = scores.softmax(-1).to(v.dtype) @ v
    return attn.to_out[0](y.flatten(2, 3).transpose(1, 2).flatten(2))


def velocity(net: DiT, x: Tensor, codes: Tensor, added: Tensor, times: Tensor, half: bool = True) -> Tensor:
    """What `net` says of B examples of T frames, T a multiple of a block.

    Args:
        x: `[B, T, 80]`.
        codes: rows of the table, int64 `[B, T / 2]`.
        added: `[B, C]`, what the voices add to the projected input.
        times: `[B]`.
        half: compute products in bfloat16.
    """
    time = net.time_embed(times)
    positions = torch.arange(x.shape[1], device=x.device)[None]
    axes = torch.zeros(len(net.inv_freq), dtype=torch.int64, device=x.device)
    cos, sin = rotary_table(positions, net.inv_freq, axes, torch.float32)
    scale, shift = net.norm_out(time).unsqueeze(2).unbind(1)  # [B, 1, C] each
    modulations = [block.attn_norm(time).unsqueeze(2).unbind(1) for block in blocks(net)]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        coded = net.input_embed.codes(net.text_embed.codec_embed(codes)).repeat_interleave(STACK, 1)
        h = net.input_embed.moving(x) + coded + added[:, None]
        for block, modulation in zip(blocks(net), modulations, strict=True):
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation
            h = h + gate_a * attend(block, modulated(h, scale_a, shift_a), cos, sin)
            h = h + gate_f * block.ff(modulated(h, scale_f, shift_f))
        v: Tensor = net.proj_out(modulated(h, scale, shift))
    return v.float()


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalised, with scale and shift of each example (adaLN)."""
    return F.layer_norm(h, h.shape[-1:], eps=EPS) * (1 + scale) + shift


@torch.no_grad()
def initialise(net: DiT, mean: Tensor, sd: Tensor) -> None:
    """By fan-in; the layers begin near the identity, the output at the mean mel, of which raw log-mels lie far from 0."""
    for key, p in net.named_parameters():
        if p.ndim > 1:
            p.normal_(0, 1 / math.sqrt(p[0].numel()))
        elif key.endswith("bias"):
            p.zero_()
    net.text_embed.codec_embed.weight.normal_(0, 1)
    for block in blocks(net):
        block.attn_norm.linear.weight.mul_(0.1)
        block.attn_norm.linear.bias.view(6, -1)[[2, 5]] = 0.1  # gates
    net.norm_out.linear.weight.mul_(0.1)
    net.proj_out.weight.mul_(0.5 * sd[:, None])
    net.proj_out.bias.copy_(mean)


def make_voices() -> dict[str, dict[str, Tensor]]:
    """By name: "cond" `[192]`, random but always the same, and "ref_mel" `[300, 80]`, the first of the corpus."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    for voice in VOICES:
        mels = torch.cat([u["mel"].float() for u in load(shard_paths(voice)[0])[:10]])
        cond = 0.5 * torch.randn(VOICE_DIM, generator=generator)
        made[voice] = {"cond": cond, "ref_mel": mels[:REFERENCE_FRAMES].clone()}
    return made


class Speech:
    """All utterances of each voice one after another."""

    def __init__(self) -> None:
        self.mels: list[Tensor] = []
        self.codes: list[Tensor] = []
        self.near = neighbours(torch.load(PATH, weights_only=True), NEAR)
        for voice in VOICES:
            shards = [load(path) for path in shard_paths(voice) if path.exists()]
            utterances = [u for shard in shards if "clusters" in shard[0] for u in shard]
            self.mels.append(torch.cat([u["mel"] for u in utterances]))  # float16 [T, 80]
            self.codes.append(torch.cat([u["clusters"] for u in utterances]).long() + 1)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mels `[B, T, 80]`, rows of the code table `[B, T / 2]`, voices `[B]`."""
        voices = torch.randint(len(self.mels), (BATCH,), generator=generator)
        mels, codes = [], []
        for voice in voices.tolist():
            start = int(torch.randint(len(self.codes[voice]) - FRAMES // STACK, (1,), generator=generator))
            mels.append(self.mels[voice][STACK * start : STACK * start + FRAMES].float())
            codes.append(self.codes[voice][start : start + FRAMES // STACK])
        read = torch.stack(codes)
        others = self.near[read - 1, torch.randint(NEAR, read.shape, generator=generator)] + 1
        wrong = torch.rand(read.shape, generator=generator) < WRONG * torch.rand(BATCH, 1, generator=generator)
        return torch.stack(mels), torch.where(wrong, others, read), voices


@torch.no_grad()
def check(net: DiT, voices: dict[str, dict[str, Tensor]], held: list[Utterance]) -> float:
    """L1 between real and sampled mels, in nepers."""
    schedule, errors = net.schedule(Solver(num_points=5)), []
    for u in held:
        row = net.voice(*(voices[u["voice"]][part].to(DEVICE) for part in ("ref_mel", "cond")))
        noise = torch.randn(u["mel"].shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        made = net.sample(u["clusters"].long().to(DEVICE) + 1, noise, row[None], [len(u["clusters"])], schedule)
        errors.append((made.cpu() - u["mel"].float()).abs().mean())
    return float(torch.stack(errors).mean())


def train(minutes: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    speech = Speech()
    if not VOICES_FILE.exists():
        save(make_voices(), VOICES_FILE)
    voices = torch.load(VOICES_FILE, weights_only=True)
    frames = torch.cat([mel[:200000] for mel in speech.mels]).float()
    sd = frames.std(0)
    refs, conds = (torch.stack([v[part] for v in voices.values()]) for part in ("ref_mel", "cond"))
    refs, conds = (torch.cat((x, torch.zeros_like(x[:1]))) for x in (refs, conds))  # the last one is no voice

    net = DiT(config(CLUSTERS))
    initialise(net, frames.mean(0), sd)
    trainer = Trainer(net, STATE, minutes, RATE, decay=0.01, keep=AVERAGE)
    sd, refs, conds = (x.to(DEVICE) for x in (sd, refs, conds))
    generator = torch.Generator().manual_seed(trainer.step)
    held = load(HELD)[::20]
    num_weights, hours = sum(p.numel() for p in net.parameters()), sum(len(mel) for mel in speech.mels) / 360000
    print(f"{num_weights} weights, {hours:.2f} h of speech, at {trainer.elapsed:.1f} min, step {trainer.step}", flush=True)

    def sampled() -> str:
        assert isinstance(trainer.average, DiT)
        return f"sampled mel L1 {check(trainer.average, voices, held):.3f}"

    def lesson() -> dict[str, float]:
        mels, codes, who = speech.batch(generator)
        noise, times = torch.randn(mels.shape, generator=generator), torch.rand(BATCH, generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < UNCONDITIONAL
        codes, who = codes.masked_fill(dropped[:, None], 0), who.masked_fill(dropped, len(VOICES))
        mels, codes, who, noise, times = (x.to(DEVICE) for x in (mels, codes, who, noise, times))
        added = net.input_embed.voice(refs, conds)[who]
        made = velocity(net, torch.lerp(noise, mels, times[:, None, None]), codes, added, times)
        loss = ((made - (mels - noise)) / sd).square().mean()
        trainer.learn(loss)
        return {"loss": loss.item()}

    run(trainer, "dit", lesson, check=sampled, keep=lambda: export(released(trainer.average.state_dict()), EXPORT))
    log(f"dit {trainer.elapsed:.1f} min: {trainer.step} steps, {num_weights} weights, {sampled()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=35.0, help="to train for in all")
    train(parser.parse_args().minutes)
