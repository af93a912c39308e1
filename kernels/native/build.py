"""Builds the C twins with the system's compiler, keeps them, and loads them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
HEADER = FOLDER / "vector.h"
COMPILERS = ("cc", "gcc", "clang")
# Contraction makes the sine's reduction exact; math-errno and trapping-math would only keep loops from vectorising.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
PATIENCE = 120
"""Seconds that a compiler may take."""
P, N, I = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "rows": (I,),
    "up_snake_down": (None, *[P] * 5, *[N] * 3, I),
    "same_convolution": (I, *[P] * 5, *[N] * 7, I),
    "pack": (None, *[P] * 3, *[N] * 4, I),
    "quantise_rows": (None, *[P] * 3, *[N] * 2, *[I] * 3),
    "dequantise_rows": (None, *[P] * 4, *[N] * 2, *[I] * 4),
    "few_knows": (I, I),
    "few_floats": (I, *[P] * 4, *[N] * 4, *[I] * 4),
    "few_bytes": (I, *[P] * 6, *[N] * 4, *[I] * 3),
    "few_nibbles": (I, *[P] * 4, *[N] * 4, *[I] * 2),
    "pack_nibbles": (None, *[P] * 4, *[N] * 3, I),
    "unpack_nibbles": (None, *[P] * 2, *[N] * 4, *[I] * 2),
    "step_norm": (None, *[P] * 5, ctypes.c_float, *[N] * 2, *[I] * 2),
    "step_gate": (None, *[P] * 2, *[N] * 2, *[I] * 2),
    "step_rotate": (None, *[P] * 9, *[N] * 7, *[I] * 3),
    "step_attend": (None, *[P] * 6, *[N] * 6, *[I] * 2),
    "step_takes": (I, N),
    "read_memory": (ctypes.c_uint32, P, N, *[I] * 2),
}
"""What each function of the C twins gives and takes."""

log = logging.getLogger(__name__)


def takes(*tensors: Tensor | None, dtypes: Collection[torch.dtype] = (torch.float32,)) -> bool:
    """Whether the C twins take these arguments: contiguous ones of these dtypes on a CPU, no gradients asked for."""
    for x in tensors:
        if x is None:
            continue
        if x.device.type != "cpu" or x.dtype not in dtypes or not x.is_contiguous():
            return False
        if x.requires_grad and torch.is_grad_enabled():
            return False
    return library() is not None


FLOATS = (torch.float32, torch.bfloat16)


def takes_floats(*tensors: Tensor | None) -> bool:
    """`takes`, of floats that are all of one dtype."""
    return takes(*tensors, dtypes=FLOATS) and len({x.dtype for x in tensors if x is not None}) == 1


def takes_halves(*tensors: Tensor | None) -> bool:
    """`takes`, of bfloat16.

    What is done in float32 is compared with transformers number by number, which uses torch's own operations: there they
    are kept, since what both round alike is no difference.
    """
    return takes(*tensors, dtypes=(torch.bfloat16,))


def library() -> ctypes.CDLL | None:
    """The C twins; None where they could not be built or loaded."""
    return _loaded()[0]


def status() -> str:
    """Which way runs, and why, for people."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    try:
        path = build()
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as e:
        reason = str(getattr(e, "stderr", None) or e).strip().partition("\n")[0]
        log.info("what C kernels would do runs on torch's own operations: %s", reason)
        return None, f"plain, since {reason}"
    _declare(loaded)
    log.debug("C kernels: %s", path)
    return loaded, str(path)


def build() -> Path:
    """The shared object, compiled unless this source, compiler and CPU have met before.

    Its name ends with a digest of its bytes. OSError or SubprocessError when there is no compiler, it fails, or the folder
    cannot be written or is not ours alone.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError(f"no C compiler is installed ({', '.join(COMPILERS)})")
    known = [
        *(path.read_text() for path in (HEADER, *SOURCES)),
        compiler,
        _run(compiler, "--version"),
        " ".join(FLAGS),
        _cpu(),
    ]
    digest = _digest("\0".join(known).encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_own(folder)
    for path in sorted(folder.glob(f"kernels-{digest}-*.so")):
        if _is_whole(path):
            return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / "kernels.so"
        _run(compiler, *FLAGS, "-shared", "-o", str(fresh), *map(str, SOURCES), "-lm")
        fresh.chmod(0o700)
        path = folder / f"kernels-{digest}-{_digest(fresh.read_bytes())}.so"
        fresh.replace(path)  # at once, since another process may be building too
    return path


def check_own(path: Path) -> None:
    """Raise PermissionError for what somebody else may have put there, or may change: its code would run as ours."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) or info.st_uid not in (os.geteuid(), 0) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} is a link, belongs to somebody else, or others may write to it; chmod go-w, or move it"
        )


def _is_whole(path: Path) -> bool:
    """Whether a library is ours, and is what its name says: loading one that was cut short ends the process."""
    try:
        check_own(path)
        return path.stem.endswith(f"-{_digest(path.read_bytes())}")
    except OSError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout


def _cpu() -> str:
    """What tells apart CPUs that may share a home folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()} {flags}"


def _declare(loaded: ctypes.CDLL) -> None:
    for name, (gives, *takes) in FUNCTIONS.items():
        function = getattr(loaded, name)  # an attribute is kept, an item is not
        function.restype, function.argtypes = gives, takes
