"""Imports run only along the arrows of the house (CONTRIBUTING.md), and stand at the top of a file."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("kernels", "encoders", "talker", "omni", "streaming", "demos")
LINKED = ("kernels", "encoders", "talker", "streaming")

# What each room may import: its own files and `omni.errors` (a leaf) always; "omni" stands for the core of the package.
MAY: dict[str, set[str]] = {
    "kernels": set(),
    "encoders": {"kernels"},
    "talker": {"kernels"},
    "omni": {"kernels", "encoders", "talker"},
    "streaming": {"omni"},
    "demos": {"kernels", "encoders", "talker", "omni", "streaming"},
}
# Core files that import a room above them, and why.
UPWARD = {
    ("omni/cli/main.py", "streaming"): "`omni serve` starts the server",
    ("omni/cli/bench.py", "streaming"): "`omni bench door` measures it",
}
# Files that import what their room never does, and why.
BESIDE = {("omni/bench/baseline.py", "transformers"): "`omni bench` times ours against it where it is installed"}
# What no file of a room may import from outside.
NEVER = {
    "streaming": {"torch", "transformers"},
    "kernels": {"transformers"},
    "encoders": {"transformers", "torchvision", "torchaudio"},
    "talker": {"transformers", "torchaudio"},
    "omni": {"transformers", "torchvision", "torchaudio"},
}
# Files that import inside functions, and why.
LATE = {
    f"omni/cli/{name}.py": "torch takes seconds to import, and `omni --help` needs none of it"
    for name in ("main", "bench", "shared")
}


def files() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            inside = path.relative_to(ROOT / room).parts[0]
            if not (room == "omni" and inside in LINKED):
                yield room, path


FILES = [pytest.param(room, path, id=str(path.relative_to(ROOT))) for room, path in files()]


def imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every imported module; `from omni import kernels` counts as `omni.kernels`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = node.module == "omni" and (alias.name in LINKED or (ROOT / "omni" / f"{alias.name}.py").exists())
                yield node, f"omni.{alias.name}" if whole else str(node.module)


def room_of(module: str) -> str | None:
    """The room of an imported module; None for other packages and for `omni.errors`."""
    parts = module.split(".")
    if parts[0] == "demos":
        return "demos"
    if parts[0] != "omni" or module == "omni.errors":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LINKED else "omni"


@pytest.mark.parametrize(("room", "path"), FILES)
def test_arrows(room: str, path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for node, module in imports(ast.parse(path.read_text())):
        at = f"{name}:{node.lineno}"
        top, target = module.split(".")[0], room_of(module)
        if (name, top) not in BESIDE:
            assert top not in NEVER.get(room, ()), f"{at}: {room} never imports {top}"
        assert top not in ("tests", "pytest"), f"{at}: tests stay outside"
        assert top not in LINKED, f"{at}: this room is called omni.{top}"
        if target not in (None, room) and (name, target) not in UPWARD:
            assert target in MAY[room], f"{at}: {room} may not import {target} ({module})"


@pytest.mark.parametrize(("room", "path"), FILES)
def test_imports_stand_at_the_top(room: str, path: Path) -> None:
    name, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If | ast.Try)]  # TYPE_CHECKING, optional packages
    top = {id(node) for node in tree.body} | {id(inner) for node in guarded for inner in ast.walk(node)}
    for node, module in imports(tree):
        assert id(node) in top or name in LATE, f"{name}:{node.lineno}: import {module} at the top"


def test_streaming_knows_only_the_public_face() -> None:
    """`omni`, its events and its errors; not the engine or a model."""
    for room, path in files():
        if room == "streaming":
            for node, module in imports(ast.parse(path.read_text())):
                if room_of(module) == "omni":
                    assert module in ("omni", "omni.api", "omni.events", "omni.session"), f"{path}:{node.lineno}: {module}"


@pytest.mark.parametrize("room", LINKED)
def test_links(room: str) -> None:
    link = ROOT / "omni" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room
    assert link.samefile(ROOT / room)


def test_no_flat_name_is_packaged() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert find["include"] == ["omni", "omni.*"]
