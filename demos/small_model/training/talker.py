"""Trains the talker: rows of text in, speech codes out.

    python -m demos.small_model.training.talker [--minutes N]

The thinker is not needed: a row of text is its fixed embedding plus a little of the thinker's thought, for which noise
stands here. Every few minutes it writes `talker.safetensors` and lets omni's own talker speak held-out sentences by itself;
what it said is in `talker_check.pt`.
"""

from __future__ import annotations

import argparse
import time
from random import Random

import torch

from demos.small_model import BUILD
from demos.small_model.files import export, log
from demos.small_model.nets.sizes import omni_config
from demos.small_model.nets.talker import TalkerNet
from demos.small_model.training.talker_check import check
from demos.small_model.training.talker_data import SPOKEN, Corpus, cut, held_out, jitter, prompt_ids, reader
from demos.small_model.training.trainer import DEVICE, Means, Trainer

STATE, WEIGHTS, CHECK = BUILD / "talker.state.pt", BUILD / "talker.safetensors", BUILD / "talker_check.pt"
RATE, WARM_UP, DECAY, AVERAGE = 1.5e-3, 150, 0.05, 0.999
CUT, JITTER = 0.08, 0.3
"""Shares of utterances that lose their first words, and whose codes are some more or fewer at one place."""
LOOKS, INDEX, PACE, LEVEL = (0.3, 0.05), 0.1, 0.1, 3e-3
"""Weights of the losses beside the codes' own; the first falls to its second value by half time."""
LOG_STEPS, EXPORT_MINUTES = 100, 5.0


def train(minutes: float) -> None:
    config = omni_config()
    assert config.talker and config.talker_decoder
    torch.manual_seed(0)
    net = TalkerNet(config.talker, config.talker_decoder)
    trainer = Trainer(net, STATE, minutes, RATE, warm_up=WARM_UP, decay=DECAY, keep=AVERAGE)
    corpus, read_rows = Corpus(), reader()
    rng = Random(trainer.step)
    torch.manual_seed(trainer.step)
    prompts = [prompt_ids(rng) for _ in range(300)]
    spoken = held_out()
    with torch.random.fork_rng():
        held = read_rows.batch(spoken[:SPOKEN], prompts[0], faults=False).to(DEVICE)
    log(f"talker: {len(corpus.samples)} utterances, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")

    def let_speak() -> None:
        assert isinstance(trainer.average, TalkerNet)
        weights = trainer.average.published()
        export(weights, WEIGHTS)
        check(weights, trainer.average, read_rows, spoken, CHECK)

    means, checked, since = Means(), trainer.elapsed, time.time()
    while not trainer.done:
        samples = [cut(s, rng) if rng.random() < CUT else s for s in corpus.draw(rng)]
        samples = [jitter(s, rng) if rng.random() < JITTER else s for s in samples]
        batch = read_rows.batch(samples, rng.choice(prompts), faults=True).to(DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            losses = net.losses(batch)
        looks = max(LOOKS[1], LOOKS[0] + (LOOKS[1] - LOOKS[0]) * 2 * trainer.elapsed / minutes)
        beside = looks * losses.looks + INDEX * losses.index + PACE * losses.pace + LEVEL * losses.level
        trainer.learn(losses.cluster + losses.phone + losses.counter + beside)
        means.add(**{name: float(value.detach()) for name, value in vars(losses).items()})
        if trainer.step % LOG_STEPS == 0:
            speed = LOG_STEPS / (time.time() - since)
            with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
                h = net.losses(held)
            print(
                f"talker {trainer.step} {trainer.elapsed:.1f} min: {means.take()}; "
                f"held cluster {h.cluster:.3f} right {h.cluster_right:.3f} phone {h.phone:.3f} right {h.phone_right:.3f} "
                f"counter {h.counter:.4f} "
                f"right {h.counter_right:.4f}; {speed:.2f} steps/s",
                flush=True,
            )
            since = time.time()
        trainer.save(every=3)
        if trainer.elapsed - checked > EXPORT_MINUTES:
            let_speak()
            corpus.look()
            checked, since = trainer.elapsed, time.time()
    trainer.save()
    let_speak()


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=75.0, help="of training in all, earlier runs included")
    train(parser.parse_args().minutes)


if __name__ == "__main__":
    main()
