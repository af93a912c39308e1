"""Goes on with the thinker that ships, where nothing is left of its training but the checkpoint.

    python -m demos.small_model.resume
    python -m demos.small_model.train_thinker MINUTES

The towers come with it; the heads that only training needs begin anew.
"""

from __future__ import annotations

import torch

from demos.small_model import BUILD, shape
from demos.small_model.assemble import BUNDLED
from demos.small_model.files import save
from demos.small_model.train_thinker import LOUDNESS, Student
from omni.checkpoint import Checkpoint, load
from omni.model import LAYOUT, build

STEP = 10_000
"""Lessons follow from the step: those after this one were not learnt from before."""


def main() -> None:
    net = build(shape.omni_config(), speech=True)
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
    save(
        {"network": weights, "average": weights, "optimisers": [], "step": STEP, "elapsed": 0.0},
        BUILD / "thinker.pt",
    )


if __name__ == "__main__":
    main()
