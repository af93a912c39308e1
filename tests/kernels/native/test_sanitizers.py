"""The C twins' own tests again, with every access and every operation checked by the compiler's sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1")
PROGRAM = """
import sys, pytest
from omni.kernels.native import build
build.FLAGS += {flags!r}
status = pytest.main(sys.argv[1:])
assert build.library() is not None, build.status()
sys.exit(status)
"""
TESTS = (
    "tests/kernels/native/test_activation.py::test_up_snake_down",
    "tests/kernels/native/test_memory.py::test_all_is_read",
    "tests/kernels/test_linear.py::test_linear",
    "tests/kernels/test_linear.py::test_rows_that_lie_apart",
    "tests/kernels/test_attention.py::test_a_row_over_many_blocks",
    "tests/kernels/test_norm.py",
    "tests/kernels/test_rotary.py::test_rotate_write",
    "tests/kernels/test_activation.py",
    "tests/kernels/test_quantised.py",
)


@pytest.mark.usefixtures("needs_compiler")
def test_nothing_is_read_or_written_beside_what_is_there(tmp_path: Path) -> None:
    """In a process of its own, since the sanitizer wants to be loaded before all else."""
    # with the library of exceptions, which it must find before torch throws the first
    runtimes = [_found("libasan.so"), _found("libstdc++.so.6")]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps much to its end
        "XDG_CACHE_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-c",
        PROGRAM.format(flags=SANITIZERS),
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *TESTS,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout


def _found(name: str) -> str:
    """Where the compiler keeps a library."""
    command = ["gcc", f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(path).is_absolute(), f"gcc is here, its {name} is not; install it"
    return path
