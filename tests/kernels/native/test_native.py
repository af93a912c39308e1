"""What holds for all twins on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

SHAPES = """
import torch
import omni.kernels.native
weight = torch.zeros(64, 64)
for num_rows in (*range(1, 201), 1, 200):
    torch.ops.mkldnn._linear_pointwise(torch.zeros(num_rows, 64), weight, None, 'none', [], '')
"""


def test_shapes_of_long_ago_are_forgotten() -> None:
    """What oneDNN keeps of each would otherwise grow with everything that is said."""
    env = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    env |= {"ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", SHAPES], env=env, capture_output=True, text=True, check=True, timeout=120)
    made = [line.split(",")[3] for line in ran.stdout.splitlines() if ",create:cache_" in line and "inner_product" in line]
    assert len(made) == 202
    assert made[-2:] == ["create:cache_miss", "create:cache_hit"], "the first shape is long ago, the last is not"
