"""Imports run only along the arrows of the house (CONTRIBUTING.md), and stand at the top of a file."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("kernels", "encoders", "talker", "omni", "streaming", "cli", "demos")
LINKED = ("kernels", "encoders", "talker", "streaming")

# What each room may import: its own files and `omni.errors` (a leaf) always; "omni" stands for the core of the package, and
# "cli" for `omni/cli`, which stands above everything that a command runs.
MAY: dict[str, set[str]] = {
    "kernels": set(),
    "encoders": {"kernels"},
    "talker": {"kernels"},
    "omni": {"kernels", "encoders", "talker"},
    "streaming": {"omni", "encoders"},
    "cli": {"kernels", "encoders", "talker", "omni", "streaming"},
    "demos": {"kernels", "encoders", "talker", "omni", "streaming"},
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
    "cli": {"transformers", "torchvision", "torchaudio"},
}
# Files that import inside functions, and why.
LATE = {
    "omni/cli/main.py": "Ctrl-C ends it with one line, whatever is being imported",
    **{
        f"omni/cli/{name}.py": "torch takes seconds to import, and `omni --help` needs none of it"
        for name in ("ask", "bench", "chat", "checkpoint", "serve", "shared", "transcribe")
    },
    "omni/loading/checkpoint.py": "the hub's client takes a quarter of a second to import, and only a download needs it",
    "omni/loading/gguf_blocks.py": "the gguf package is optional, and only tensors in blocks need it",
}


def files() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        folder = ROOT / "omni" / "cli" if room == "cli" else ROOT / room
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).parts[0]
            if not (room == "omni" and inside in (*LINKED, "cli")):
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
                whole = node.module == "omni" and any(
                    (ROOT / "omni" / name).exists() for name in (alias.name, f"{alias.name}.py")
                )
                yield node, f"omni.{alias.name}" if whole else str(node.module)


def room_of(module: str) -> str | None:
    """The room of an imported module; None for other packages and for `omni.errors`."""
    parts = module.split(".")
    if parts[0] == "demos":
        return "demos"
    if parts[0] != "omni" or module == "omni.errors":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in (*LINKED, "cli") else "omni"


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join([*(["omni"] if parts[0] in LINKED else []), *parts]).removesuffix(".__init__")


def imported_files(tree: ast.AST, known: set[str]) -> set[str]:
    """Of the known modules, those that a file imports: `from a import b` means `a.b` where that is one, or else `a`."""
    found = {name for node, name in imports(tree) if isinstance(node, ast.Import)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else str(node.module) for name in whole}
    return found & known


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
        if target not in (None, room):
            assert target in MAY[room], f"{at}: {room} may not import {target} ({module})"


@pytest.mark.parametrize(("room", "path"), FILES)
def test_imports_stand_at_the_top(room: str, path: Path) -> None:
    name, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If | ast.Try)]  # TYPE_CHECKING, optional packages
    top = {id(node) for node in tree.body} | {id(inner) for node in guarded for inner in ast.walk(node)}
    for node, module in imports(tree):
        assert id(node) in top or name in LATE, f"{name}:{node.lineno}: import {module} at the top"


@pytest.mark.parametrize("room", ROOMS)
def test_no_files_import_each_other_in_a_circle(room: str) -> None:
    """Nor under TYPE_CHECKING: what needs each other's types belongs together, or to a third."""
    trees = {module_of(path): ast.parse(path.read_text()) for its_room, path in files() if its_room == room}
    graph = {name: imported_files(tree, set(trees)) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail("a circle: " + " is imported by ".join(e.args[1]))


PUBLIC = ("omni", "omni.api", "omni.events", "omni.session", "omni.runtime")
READERS = {f"streaming/server/{name}.py" for name in ("formats", "probe", "sandbox", "tasks")}
"""What decodes in a process of its own, by the readers of media, which need no torch, and what hands over its work."""


def test_streaming_knows_only_the_public_face() -> None:
    """`omni`, its sessions, events and errors; not the engine or a model."""
    for room, path in files():
        if room == "streaming":
            for node, module in imports(ast.parse(path.read_text())):
                if room_of(module) == "omni":
                    assert module in PUBLIC, f"{path}:{node.lineno}: {module}"
                if room_of(module) == "encoders":
                    assert str(path.relative_to(ROOT)) in READERS, f"{path}:{node.lineno}: {module}"


@pytest.mark.parametrize("room", LINKED)
def test_links(room: str) -> None:
    link = ROOT / "omni" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room
    assert link.samefile(ROOT / room)


def test_no_flat_name_is_packaged() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert find["include"] == ["omni", "omni.*"]
