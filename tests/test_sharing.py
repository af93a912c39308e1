"""One process makes, the others find; what failed is made anew."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import sharing

ROOT = Path(__file__).parent.parent
ASK = """
import os, sys
from pathlib import Path
from tests.sharing import made_once

def make(path):
    with Path(sys.argv[1]).open("a") as told:
        told.write("made\\n")
    path.write_text(str(os.getpid()))

print(made_once("a/b", make).read_text())
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of its own, in this folder."""
    monkeypatch.setenv(sharing.VARIABLE, str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_processes_make_a_thing_once(run: Path) -> None:
    told = run.parent / "told"

    def ask(_: int) -> str:
        return subprocess.run([sys.executable, "-c", ASK, told], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ask, range(4)))
    assert len(found) == 1
    assert told.read_text() == "made\n"


def test_what_failed_is_made_anew(run: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise ValueError("half made")

    with pytest.raises(ValueError, match="half made"):
        sharing.made_once("a", fail)
    assert list(sharing.made_once("a", Path.mkdir).iterdir()) == []
    assert sorted(path.name for path in run.iterdir()) == ["a", "a.lock"]


def test_a_folder_goes_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sharing.VARIABLE, raising=False)
    code = "from tests.sharing import folder; f = folder(); assert f.is_dir() and folder() == f; print(f)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not Path(told.strip()).exists()
