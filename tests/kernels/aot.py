"""Builds Triton kernels for GPUs that are not here, and reads from the machine code what they will cost there.

A launcher (a function of `kernels/fused/`) is called with meta tensors of the true shapes. Every kernel that it would
launch goes through the JIT with the launch's own arguments, so dtypes, strides, alignment, warps and stages are those of
the real launch, and comes out of ptxas. Needs no GPU and no driver, but a process without TRITON_INTERPRET.

    python -m tests.kernels.aot MODULE...    # prints {case: {"sm_90": [facts of each launch]}}; MODULE holds `BUILDS`
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tests.sharing import made_once

ROOT = Path(__file__).parents[2]
CAPABILITIES = (80, 90, 100)
LIMIT = 900  # seconds for all builds of a module
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes of a block (CUDA guide, compute capabilities)
# Machine instructions by what PTX asks for; to disassemble a kernel takes longer than to build it.
COUNTED = {
    "HMMA": r"\bmma\.sync",
    "HGMMA": r"\bwgmma\.mma_async",
    "UTCHMMA": r"\btcgen05\.mma",
    "LDGSTS": r"\bcp\.async\.c[ag]",
    "UTMALDG": r"\bcp\.async\.bulk\.tensor",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """One kernel, built.

    Attributes:
        grid: programs of the launch along each axis.
        num_warps, registers: warps of a program; registers of a thread.
        stack: bytes of local memory a thread; 0 when nothing is spilled.
        shared: bytes of shared memory a program.
        opcodes: how often each of `COUNTED` stands in the code; absent ones are left out.
        vectors: global loads and stores by their width in bits, as "ld.128".
    """

    kernel: str
    grid: tuple[int, ...]
    num_warps: int
    registers: int
    stack: int
    shared: int
    opcodes: dict[str, int]
    vectors: dict[str, int]


Build = Callable[[], object]
Built: TypeAlias = dict[str, dict[str, list[Facts]]]
"""Launches of each case, by GPU ("sm_90")."""


def builds(launchers: Mapping[str, Build], capabilities: tuple[int, ...] = CAPABILITIES) -> Built:
    """Facts of every kernel that each launcher launches, for each capability."""
    return {name: {f"sm_{c}": _build(launch, c) for c in capabilities} for name, launch in launchers.items()}


def gate(*modules: str) -> Built:
    """`builds` of the `BUILDS` of some modules, each in a process of its own, once a run."""
    found: Built = {}
    faulthandler.cancel_dump_traceback_later()  # pytest's limit for one test; on a busy machine all builds take longer
    with ThreadPoolExecutor(len(modules)) as pool:
        for path in pool.map(lambda name: made_once(f"built/{name}.json", partial(_build_apart, name)), modules):
            for case, by in json.loads(path.read_text()).items():
                assert case not in found, f"two cases are called {case}"
                found[case] = {target: [_facts_of(launch) for launch in launches] for target, launches in by.items()}
    return found


def _build_apart(name: str, path: Path) -> None:
    """Write what this module prints of a module into a file."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.aot", name]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-5000:]
    path.write_text(done.stdout.splitlines()[-1])


def _facts_of(launch: dict[str, Any]) -> Facts:
    return Facts(**{**launch, "grid": tuple(launch["grid"])})


def _build(launch: Build, capability: int) -> list[Facts]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    assert not triton.knobs.runtime.interpret, "TRITON_INTERPRET makes kernels that cannot be built"

    class Absent:
        """Stands for the driver of a GPU: enough of it for the JIT to compile, not to launch."""

        def get_current_device(self) -> int:
            return capability  # the JIT keeps its compiled kernels by device

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

    found: list[Facts] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.append(_facts(self.__name__, kernel, tuple(grid)))

    triton.runtime.driver.set_active(Absent())
    JITFunction.run = compile_only
    try:
        launch()
    finally:
        JITFunction.run = run
    assert found, "nothing was launched"
    return found


def _facts(name: str, kernel: Any, grid: tuple[int, ...]) -> Facts:
    with _cubin(kernel.asm["cubin"]) as path:
        dump = _tool("cuobjdump", "-res-usage", path)
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", dump)}
    ptx, meta = kernel.asm["ptx"], kernel.metadata
    opcodes = {op: n for op, asked in COUNTED.items() if (n := len(re.findall(asked, ptx)))}
    vectors: dict[str, int] = {}
    for way, lanes, bits in re.findall(r"\b(ld|st)\.global[.\w:]*?(?:\.v(\d))?\.[bfsu](\d+)\b", ptx):
        width = f"{way}.{int(lanes or 1) * int(bits)}"
        vectors[width] = vectors.get(width, 0) + 1
    stack = usage["STACK"] + usage["LOCAL"]
    return Facts(name, grid, meta.num_warps, usage["REG"], stack, meta.shared, opcodes, vectors)


@contextlib.contextmanager
def _cubin(binary: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        yield file.name


def _tool(name: str, *args: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([path, *args], capture_output=True, text=True, check=True).stdout


def main(modules: list[str]) -> None:
    with tempfile.TemporaryDirectory() as cache:  # a build of last week says nothing about this one
        os.environ["TRITON_CACHE_DIR"] = cache
        found = {}
        for name in modules:
            for case, by in builds(importlib.import_module(name).BUILDS).items():
                assert case not in found, f"two cases are called {case}"
                found[case] = {target: [dataclasses.asdict(facts) for facts in launches] for target, launches in by.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
