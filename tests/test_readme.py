"""Every example of the README and of the guides in docs/ runs.

Blocks of Python of one page share a namespace, blocks of bash run one by one; all in a folder that holds the files of
demos/media, with a tiny checkpoint in place of the published ones. `<!-- not run: why -->` before a block leaves it out, and
`<!-- with a server -->` runs it beside `omni serve`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
from playwright._impl._driver import compute_driver_executable  # brings a node of its own

from tests.oracle.tiny import tiny

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?:^<!-- (?:not run: (?P<why>.+?)|(?P<served>with a server)) -->\n+)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = ("README.md", "docs/python.md", "docs/server.md")
OMNI, TEXT = re.compile(r"Qwen/Qwen2\.5-Omni-[37]B"), re.compile(r"Qwen/Qwen3-0\.6B")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    why: str | None
    served: bool = False


def blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        found.append(Block(page, line, match["language"], match["code"], match["why"], bool(match["served"])))
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for medium in (ROOT / "demos" / "media").iterdir():
        if medium.suffix != ".py":
            shutil.copy(medium, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python(place: Path, page: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in runnable("python", page):
        # blank lines before it make tracebacks name the page's lines
        exec(compile("\n" * (block.line - 1) + block.code, str(ROOT / page), "exec"), namespace)


def test_bash(place: Path) -> None:
    for block in runnable("bash", "README.md"):
        run(block, ["bash", "-euo", "pipefail", "-c", block.code], ENVIRONMENT)


def run(block: Block, command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{block.code}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    """Of a server with the small model."""
    command = [str(Path(sys.executable).with_name("omni")), "serve", "--port", "0"]
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("OMNI_MODEL", "OMNI_API_KEY")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        told = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", told)
        assert found, told
        yield found[1]
        server.terminate()
        assert server.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("language", "command", "expected"),
    [
        ("bash", ["bash", "-euo", "pipefail", "-c"], ["It is at the top right.", "Two plus three is five."]),
        ("python", [sys.executable, "-c"], ["Where is the green heart?"]),
        ("javascript", [compute_driver_executable()[0], "--input-type=module", "-e"], ["I am"]),
    ],
)
def test_with_a_server(place: Path, port: str, language: str, command: list[str], expected: list[str]) -> None:
    environment = ENVIRONMENT | {"OMNI_URL": f"ws://127.0.0.1:{port}"}
    told = [block for page in PAGES for block in blocks(page, (ROOT / page).read_text())]
    found = [block for block in told if block.served and block.language == language]
    answer = "".join(run(b, [*command, b.code.replace("127.0.0.1:8000", f"127.0.0.1:{port}")], environment) for b in found)
    for words in expected:
        assert words in answer
    if language == "bash":
        assert soundfile.info(place / "answer.wav").duration > 0.5 and soundfile.info(place / "words.mp3").duration > 0.5


def runnable(language: str, page: str) -> list[Block]:
    """Blocks to run, with tiny checkpoints in place of the published names, of which the speaking one ends by itself."""
    text = (ROOT / page).read_text()
    for name, folder in ((OMNI, tiny("3b-like", seed=1, ends=True)), (TEXT, tiny("qwen3"))):
        text = name.sub(str(folder), text)
    found = [block for block in blocks(page, text) if block.language == language and block.why is None and not block.served]
    assert found, f"{page} has no {language} to run"
    return found


def test_blocks() -> None:
    text = "a\n```python\nx = 1\n```\n\n<!-- not run: it waits -->\n```bash\nomni serve\n```\n<!-- other -->\n```\nb\n```\n"
    assert blocks("page", text) == [
        Block("page", 3, "python", "x = 1\n", None),
        Block("page", 8, "bash", "omni serve\n", "it waits"),
        Block("page", 12, "", "b\n", None),
    ]
    assert blocks("page", "<!-- with a server -->\n```bash\nls\n```\n") == [Block("page", 3, "bash", "ls\n", None, True)]
