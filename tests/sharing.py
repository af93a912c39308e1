"""What the processes of one test run make once and share: a folder of this run, gone with it.

A run is a process and those that it starts, as pytest-xdist's workers are; nothing is kept from one run to the next, so
nothing in the folder is older than the code that made it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

VARIABLE = "OMNI_TEST_RUN"
"""Names the folder in the environment, for the processes that this one starts."""


def folder() -> Path:
    """The folder of this run; made, named in the environment and removed by the process that asks first."""
    if VARIABLE not in os.environ:
        made = tempfile.mkdtemp(prefix="omni-tests-")
        os.environ[VARIABLE] = made
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(os.environ[VARIABLE])


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The path of this name in the run's folder, which `make` writes, in one process; the others wait for it meanwhile.

    What a failed `make` leaves behind is thrown away: the next one who asks makes it anew.
    """
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder()) as scratch:
                fresh = Path(scratch) / "made"
                make(fresh)
                fresh.replace(path)
    return path
