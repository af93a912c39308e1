"""Every example of the README runs.

Blocks of Python share one namespace, blocks of bash run one by one; all in a folder that holds the files of demos/media,
with a tiny checkpoint in place of the published ones. `<!-- not run: why -->` before a block leaves it out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.oracle.tiny import tiny

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
PUBLISHED = re.compile(r"Qwen/Qwen2\.5-Omni-[37]B")


class Block(NamedTuple):
    line: int
    language: str
    code: str
    why: str | None


def blocks(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        found.append(Block(line, match["language"], match["code"], match["why"]))
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for medium in (ROOT / "demos" / "media").iterdir():
        if medium.suffix != ".py":
            shutil.copy(medium, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(place: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in runnable("python"):
        # blank lines before it make tracebacks name the README's lines
        exec(compile("\n" * (block.line - 1) + block.code, str(ROOT / "README.md"), "exec"), namespace)


def test_bash(place: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for block in runnable("bash"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"README.md:{block.line}\n{block.code}\n{done.stdout}{done.stderr}"


def runnable(language: str) -> list[Block]:
    """Blocks to run, with a checkpoint whose text and speech end by themselves in place of the published names."""
    folder = str(tiny("3b-like", seed=1, ends=True))
    text = PUBLISHED.sub(lambda _: folder, (ROOT / "README.md").read_text())
    found = [block for block in blocks(text) if block.language == language and block.why is None]
    assert found, f"the README has no {language} to run"
    return found


def test_blocks() -> None:
    text = "a\n```python\nx = 1\n```\n\n<!-- not run: it waits -->\n```bash\nomni serve\n```\n<!-- other -->\n```\nb\n```\n"
    assert blocks(text) == [
        Block(3, "python", "x = 1\n", None),
        Block(8, "bash", "omni serve\n", "it waits"),
        Block(12, "", "b\n", None),
    ]
