"""Goes on from the model that ships, where nothing is left of its training but the checkpoint and its codec.

    python -m demos.small_model.resume
    python -m demos.small_model.training.thinker MINUTES
    python -m demos.small_model.training.talker --minutes MINUTES
    python -m demos.small_model.training.dit --minutes MINUTES
    python -m demos.small_model.assemble

Any of them may then learn on, talker and decoder on a corpus made anew; heads that only training needs begin anew. The parts
that do not lie as their training leaves them, ready to be assembled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.assemble import BUNDLED, SPEAKING
from demos.small_model.files import export, save
from demos.small_model.nets import sizes
from demos.small_model.nets.talker import TalkerNet
from demos.small_model.speech import codec
from demos.small_model.training import dit, talker
from demos.small_model.training.thinker import LOUDNESS, Student
from omni.families.qwen2_5_omni import LAYOUT, build
from omni.loading.checkpoint import Checkpoint, load
from omni.talker.voices import read_voices

STEP = 10_000
"""Lessons follow from the step: those after this one were not learnt from before."""


def begin(weights: dict[str, Tensor], path: Path) -> None:
    """The state of a training that has these weights and nothing else."""
    save({"network": weights, "average": weights, "optimisers": [], "step": STEP, "elapsed": 0.0}, path)


def main() -> None:
    net = build(sizes.omni_config())
    load(
        net,
        Checkpoint.open(BUNDLED),
        LAYOUT,
        dtype_of=lambda name: torch.float32,
        device_of=lambda name: torch.device("cpu"),
    )
    student = Student()
    student.thinker.load_state_dict(net.thinker.state_dict())
    with torch.no_grad():
        student.thinker.lm_head.weight.mul_(LOUDNESS)
    weights = student.state_dict()
    begin(weights, BUILD / "thinker.pt")
    shipped = load_file(BUNDLED / "model.safetensors")
    for prefix, name in SPEAKING.items():
        weights = {key.removeprefix(prefix): value for key, value in shipped.items() if key.startswith(prefix)}
        export(weights, BUILD / f"{name}.safetensors")
    save(codec.kept(), codec.PATH)
    config = sizes.omni_config()
    assert config.talker and config.talker_decoder
    student_talker = TalkerNet(config.talker, config.talker_decoder)
    student_talker.take(load_file(talker.WEIGHTS))
    begin(student_talker.state_dict(), talker.STATE)
    begin(dit.taken(load_file(dit.EXPORT)), dit.STATE)
    voices = {name: {"cond": v.cond, "ref_mel": v.ref_mel} for name, v in read_voices(BUNDLED).items()}
    save(voices, BUILD / "voices.pt")


if __name__ == "__main__":
    main()
